"""The page that ``experiments.explain`` fills in, a jinja2 template."""

HTML = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; font-size: 12px; }
.note { color: #555; font-size: 14px; max-width: 50rem; }
nav a { margin-right: 1rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<nav><a href="#answers">Images</a><a href="#layers">Layers</a>
{% for layer in layers %}<a href="#{{ layer.name }}">{{ layer.name }}</a>{% endfor %}
<a href="#architecture">Architecture</a></nav>
<table>
{% for name, value in facts %}<tr><th>{{ name }}</th><td class="number">{{ value }}</td></tr>{% endfor %}
</table>
{% if confusion %}<p><img src="{{ confusion }}" alt="Confusion matrix"></p>{% endif %}
<h2 id="answers">What images say</h2>
<p class="note">Beside each image, what its pixels added to the logit of the predicted class, beyond that of a black
image: purple for the class, orange against it. The sum over all pixels is the difference of the two logits. A KAN
layer is a sum of functions of one variable, so each edge is credited with its own difference; between layers, what a
sum is credited with is shared out in proportion (the rescale rule of DeepLIFT).</p>
{% for answer in answers %}
{% if answer.title %}<h3>{{ answer.title }}</h3>{% endif %}
<p><img src="{{ answer.picture }}" alt="{{ answer.title or 'Feature maps' }}"></p>
{% endfor %}
<h2 id="layers">Layers</h2>
<p><img src="{{ overview }}" alt="Coverage and importance of each layer"></p>
<p class="note">σ(φ) is how much an edge varies over training images; an edge is nearly straight if a line explains
98 % of that. Below, importance is σ(φ) relative to what the edge is added to, times how much that matters further on:
compare it within a layer.</p>
{% for layer in layers %}
<h3 id="{{ layer.name }}">{{ layer.name }}: {{ layer.layer }}</h3>
<p><img src="{{ layer.atlas }}" alt="Functions of {{ layer.name }}"></p>
<table>
<tr><th>edge (input → output)</th><th>importance</th><th>closest known function</th><th>R²</th></tr>
{% for row in layer.edges %}
<tr><td>{{ row.edge }}</td><td class="number">{{ row.importance }}</td><td>{{ row.formula }}</td>
<td class="number">{{ row.r2 }}</td></tr>
{% endfor %}
</table>
{% endfor %}
<h2 id="architecture">Architecture</h2>
<pre>{{ architecture }}</pre>
</body>
</html>
"""
