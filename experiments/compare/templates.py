"""What a comparison's report looks like: Jinja templates for Markdown and HTML."""

MARKDOWN = """\
# {{ title }}

## Verdict

{% for line in verdict %}
- {{ line }}
{% endfor %}

{% for name, content in tables.items() %}
## {{ name }}

{{ content.markdown() | join("\n") }}

{% endfor %}
{% if pairs %}
## Pair by pair

{% for line in pairs %}
- {{ line }}
{% endfor %}

{% endif %}
## How it was done

{% for line in protocol %}
- {{ line }}
{% endfor %}

{{ entries.markdown() | join("\n") }}

{% if searches %}
{{ searches.markdown() | join("\n") }}

{% endif %}
{% for figure in figures %}
![{{ figure.caption }}]({{ figure.source }})

{{ figure.caption }}

{% endfor %}
"""

HTML = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title | e }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
.verdict { background: #f2f6fa; border-left: 4px solid #0072B2; padding: 0.5rem 1rem; }
img { max-width: 100%; }
figure { margin: 2rem 0; }
figcaption { color: #555; font-size: 14px; }
</style>
</head>
<body>
{% macro strong(text) %}{% for part in (text | e).split("**") %}{% if loop.index0 % 2 %}<b>{{ part }}</b>{% else %}{{ part }}{% endif %}{% endfor %}{% endmacro %}
{% macro table(content) %}
<table>
<tr>{% for column in content.columns %}<th>{{ column | e }}</th>{% endfor %}</tr>
{% for row in content.rows %}
<tr>{% for cell in row %}<td>{{ cell | e }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endmacro %}
<h1>{{ title | e }}</h1>
<div class="verdict"><h2>Verdict</h2><ul>
{% for line in verdict %}<li>{{ strong(line) }}</li>{% endfor %}
</ul></div>
{% for name, content in tables.items() %}
<h2>{{ name | e }}</h2>
{{ table(content) }}
{% endfor %}
{% if pairs %}<h2>Pair by pair</h2>
<ul>{% for line in pairs %}<li>{{ strong(line) }}</li>{% endfor %}</ul>{% endif %}
<h2>How it was done</h2>
<ul>{% for line in protocol %}<li>{{ strong(line) }}</li>{% endfor %}</ul>
{{ table(entries) }}
{% if searches %}{{ table(searches) }}{% endif %}
{% for figure in figures %}
<figure><img src="{{ figure.source }}" alt="{{ figure.caption | e }}"><figcaption>{{ figure.caption | e }}</figcaption></figure>
{% endfor %}
</body>
</html>
"""  # noqa: E501  (a template's lines are output)
