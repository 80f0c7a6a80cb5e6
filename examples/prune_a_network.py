"""Find what a network does without, and leave it out: ``python prune_a_network.py``."""

import torch
from torch import nn

from convkan import BSpline, KANLinear
from convkan.interpret import importance, prune_edges, prune_inputs, prune_nodes
from convkan.regularization import recorded_inputs, total_l1_entropy

torch.manual_seed(0)
x = 2 * torch.rand(1000, 6) - 1
y = torch.sin(torch.pi * x[:, :1]) + x[:, 1:2].square()  # of six inputs two matter
train, test = slice(0, 400), slice(400, None)

# More hidden nodes than it takes. The KAN paper's penalty makes few edges say all there is to say.
net: nn.Module = nn.Sequential(KANLinear(6, 8), KANLinear(8, 1, basis=BSpline(grid_range=(-2, 2))))


def fit(model: nn.Module, inputs: torch.Tensor, steps: int, penalty: float = 0.0) -> None:
    """Adam on all of the training part."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(steps):
        with recorded_inputs(model) as calls:
            loss = (model(inputs[train]) - y[train]).square().mean()
        if penalty:
            loss = loss + penalty * total_l1_entropy(calls)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def report(what: str, model: nn.Module, inputs: torch.Tensor) -> None:
    """Error on the test part, and how large the model is."""
    error = (model(inputs[test]) - y[test]).square().mean().sqrt().item()
    nodes = [layer.in_features for layer in model] + [1]  # type: ignore[union-attr]
    print(f"{what:15} error {error:.4f}, nodes {nodes}, {sum(p.numel() for p in model.parameters())} parameters")


fit(net, x, 300, penalty=5e-3)
report("trained", net, x)

scores = importance(net, [x[train]])  # how much each edge varies, and what comes of it in the output
print("inputs matter:", ", ".join(f"{score:.3f}" for score in scores["0"].inputs))

alive = prune_edges(net, scores, share=0.5)  # in place: edges are masked, and cost what they did
report("half masked", net, x)
print("edges alive: " + ", ".join(f"layer {name} {share:.0%}" for name, share in alive.items()))

small, kept = prune_inputs(net, scores, threshold=0.05)  # a copy, and the inputs that it still takes
report("fewer inputs", small, x[:, kept])
small = prune_nodes(small, importance(small, [x[train][:, kept]]), threshold=0.05)  # a smaller copy
report("fewer nodes", small, x[:, kept])
fit(small, x[:, kept], 100)
report("trained again", small, x[:, kept])
print(f"inputs kept: {kept}")
