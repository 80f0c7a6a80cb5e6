"""The head of a classifier, which makes logits of features, and its body, which is all the rest."""

from torch import nn
from torch.nn.parameter import is_lazy


def head_name(model: nn.Module) -> str:
    """The name of a classifier's head: its module ``head``, or the last layer of an ``nn.Sequential``.

    Raises:
        ValueError: There is neither, or the last layer, as ``nn.LogSoftmax``, has no parameters.

    Example:
        >>> head_name(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
        '1'
    """
    if isinstance(getattr(model, "head", None), nn.Module):
        return "head"
    if isinstance(model, nn.Sequential) and len(model):
        if not any(True for _ in model[-1].parameters()):
            last = type(model[-1]).__name__
            raise ValueError(f"model must end in the layer that makes its logits, got {last}, which has no parameters")
        return str(len(model) - 1)
    raise ValueError(
        f"model must have a module called head, or be an nn.Sequential that ends in it, got {type(model).__name__}"
    )


def replace_head(model: nn.Module, other: nn.Module) -> None:
    """Give ``model`` the head of another model of its architecture, which may have other classes.

    Raises:
        ValueError: It is not known which module the head is, see ``head_name``, or not the head alone depends on the
            number of classes.
    """
    name = head_name(model)
    own, others = _body_outputs(model, name), _body_outputs(other, name)
    if differing := [key for key in own if key in others and own[key] != others[key]]:
        raise ValueError(
            f"model must depend on the number of classes in its head {name!r} alone, got other sizes of "
            f"{', '.join(differing)}"
        )
    setattr(model, name, other.get_submodule(name).train(model.training))


def _body_outputs(model: nn.Module, head: str) -> dict[str, tuple[int, ...]]:
    """First dimension of each parameter of the body: outputs. Others may follow the size of a grid."""
    return {
        name: tuple(parameter.shape[:1])
        for name, parameter in model.named_parameters()
        if not name.startswith(f"{head}.") and not is_lazy(parameter)
    }


def freeze_body(model: nn.Module) -> None:
    """Make all of a classifier but its head stay as it is, in training.

    Parameters of the body are given no gradients, and it is in eval mode: batch normalisation keeps its statistics,
    and nothing is dropped. ``model.train()`` would undo the latter; ``convkan.training.Classifier`` does not call it
    for a model whose head is in train mode, as it is after this.

    Raises:
        ValueError: It is not known which module the head is; see ``head_name``.
    """
    head = model.get_submodule(head_name(model))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    model.train()
    for module in model.children():
        if module is not head:
            module.eval()
