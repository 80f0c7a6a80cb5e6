"""State that is no number: saved, loaded and moved with a module, but never averaged, cast or trained."""

from typing import Any, ClassVar, Self

from torch import Tensor, nn


class HoldsConstants(nn.Module):
    """A module some of whose attributes are tensors that stand for choices: masks, indices, names.

    Buffers would be wrong for them: averages of weights (``torch.optim.swa_utils.AveragedModel(use_buffers=True)``,
    timm's ``ModelEma``) compute with every buffer, and write the result back. These appear in the ``state_dict`` under
    their own names, as buffers do, but as copies.
    """

    # Names of the attributes; each a tensor, or None.
    constants: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name in self.constants:
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, fn(value).to(value.dtype))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.constants:
            value = getattr(self, name)
            if value is not None:
                destination[prefix + name] = value.clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        metadata, strict, missing, *_ = args
        assigned = metadata.get("assign_to_params_buffers", False)
        own = {prefix + name for name in self.constants}
        super()._load_from_state_dict({key: state_dict[key] for key in state_dict if key not in own}, prefix, *args)
        for name in self.constants:
            value, present = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(value, Tensor):
                device = value.device if assigned or present is None else present.device
                setattr(self, name, value.detach().to(device, copy=True))
            elif present is not None and strict:
                missing.append(prefix + name)
