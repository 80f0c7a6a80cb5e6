"""fvcore's counter of floating point operations, on models with KAN layers, compiled or not.

It traces a model and counts the convolutions, products and contractions that it finds. A KAN layer is made of these,
so it is counted by itself; but contractions, which learnable activations are, are rounded, and nothing that is compiled
can be traced.
"""

import copy
from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, nn


def analyze_flops(model: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> Any:
    """The ``FlopCountAnalysis`` of fvcore for a model, exact for KAN layers, which may be compiled.

    As fvcore does, it counts a multiply-add as one, half of what torch's ``FlopCounterMode`` counts; and normalisation
    and pooling, too, which torch's counter leaves out.

    Args:
        model: The model. Its mode is kept: in evaluation normalisation counts less.
        inputs: Its arguments, in a tuple if there are several; of any batch size, for which the figures are.

    Returns:
        The analysis, with ``total()``, ``by_module()``, ``by_operator()``, ….

    Raises:
        ImportError: fvcore is not installed.

    References:
        fvcore, https://github.com/facebookresearch/fvcore/blob/main/docs/flop_count.md.
    """
    from fvcore.nn import FlopCountAnalysis  # an extra that is not ours

    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    return FlopCountAnalysis(uncompiled(model), inputs).set_op_handle("aten::einsum", count_contraction)


def uncompiled(model: nn.Module) -> nn.Module:
    """The model without ``torch.compile``: itself, or, if some of its modules are compiled, a copy in which none is."""
    model = getattr(model, "_orig_mod", model)
    if not any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules()):
        return model
    model = copy.deepcopy(model)  # which leaves behind what ``nn.Module.compile`` did
    # Innermost first, while the names of those around still hold; and a module that has several names under each.
    for name, part in reversed(list(model.named_modules(remove_duplicate=False))):
        if hasattr(part, "_orig_mod"):
            model.set_submodule(name, part._orig_mod)
    return model


def count_contraction(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """The multiply-adds of an ``einsum`` in a traced graph: one for each entry that its factors span together."""
    from fvcore.nn.jit_handles import einsum_flop_jit, get_shape

    terms = inputs[0].toIValue().replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2:
        count: int = einsum_flop_jit(inputs, outputs)
        return count
    sizes: dict[str, int] = {}
    for term, factor in zip(terms, inputs[1].node().inputs(), strict=True):
        shape = get_shape(factor)
        before, _, after = term.partition("...")
        others = [f"{number} from the right" for number in range(len(shape) - len(before) - len(after), 0, -1)]
        for name, size in zip([*before, *others, *after], shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size)
    return prod(sizes.values())
