"""Entry points of ``torch.hub``: every model of ``convkan.models``, as ``create_model`` makes it.

``torch.hub.load(DIR, "kan_vgg", weights="cifar10", source="local")``, with DIR a checkout of this repository.
"""

from functools import partial as _partial
from functools import update_wrapper as _update_wrapper

from convkan.models import create_model as _create_model
from convkan.models import list_models as _list_models

dependencies = ["torch", "numpy", "einops", "jaxtyping"]

globals().update({_name: _update_wrapper(_partial(_create_model, _name), _create_model) for _name in _list_models()})
