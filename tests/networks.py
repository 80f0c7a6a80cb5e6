"""Networks of other libraries, and what is asked of any."""

import pickle
import warnings

import pytest
import torch


def torchvision(name, **options):
    models = pytest.importorskip("torchvision.models")
    return lambda: getattr(models, name)(num_classes=3, **options)


def timm(name, **options):
    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what timm itself calls
            return pytest.importorskip("timm").create_model(name, num_classes=3, **options)

    return make


NETWORKS = {
    "resnet18": torchvision("resnet18"),
    "mobilenet_v3_small": torchvision("mobilenet_v3_small"),
    "vgg11_bn": torchvision("vgg11_bn"),
    "convnext_tiny": torchvision("convnext_tiny"),
    "efficientnet_b0": torchvision("efficientnet_b0"),
    "swin_t": torchvision("swin_t"),
    "googlenet": torchvision("googlenet", aux_logits=False, init_weights=False),  # which calls F.relu
    "densenet121": torchvision("densenet121"),  # which cannot all be traced
    "timm resnet26": timm("resnet26"),
    "timm mobilenetv4_conv_small": timm("mobilenetv4_conv_small"),
    "timm convnext_atto": timm("convnext_atto"),
    "timm vit_tiny": timm("vit_tiny_patch16_224", img_size=32),
}


def images(batch=2, dtype=None):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)


def pickled(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301


def relative(one, other):
    return ((one - other).abs().max() / other.abs().max()).item()
