"""What every image network has to be: any size, samples apart, itself after saving, able to learn, all of it alive."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file


def draw(signature, size, batch=2, seed=0):
    """Normal images (B, T, C, H, W)."""
    shape = (batch, signature.dates, signature.channels, *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def evaluate(model, images, usable=None):
    model.eval()
    with torch.no_grad():
        return model(images, usable)


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


def check_any_size(model, sizes=((1, 1), (7, 13), (5, 2), (33, 31))):
    """The outputs have the input's size and are finite."""
    for size in sizes:
        out = evaluate(model, draw(model.signature, size))
        assert all(x.shape[-2:] == size and bool(x.isfinite().all()) for x in out.values()), size


def check_samples_apart(model, size=(20, 17), **tolerance):
    """A sample's output does not depend on its neighbours in the batch."""
    images = draw(model.signature, size, batch=3)
    whole = evaluate(model, images)
    for i in range(3):
        alone = evaluate(model, images[i : i + 1])
        assert_same(alone, {k: v[i : i + 1] for k, v in whole.items()}, **({"rtol": 1e-4, "atol": 1e-5} | tolerance))


def check_reload(make, folder, size=(20, 17)):
    """A new model with the saved weights is the same one (and without them is not)."""
    torch.manual_seed(1)
    model = make()
    images = draw(model.signature, size)
    model.train()
    model(images)  # batch norm's running statistics are part of the state
    expected = evaluate(model, images)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors")
    torch.manual_seed(2)
    again = make()
    assert not torch.equal(next(iter(evaluate(again, images).values())), next(iter(expected.values())))
    again.load_state_dict(load_file(folder / "weights.safetensors"))
    assert_same(evaluate(again, images), expected, rtol=0, atol=0)


def check_alive(model, images):
    """The gradient of the outputs reaches every parameter."""
    model.train()
    generator = torch.Generator().manual_seed(9)
    out = model(images)
    total = sum((x * torch.randn(x.shape, generator=generator)).sum() for x in out.values())
    total.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not dead, dead


def overfit(model, loss_of, steps, lr=1e-2, clip=float("inf")):
    """Loss before and after so many steps of Adam, gradients clipped to a norm."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = loss_of(model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def reach(model, size, pixels, output="logits", seed=0):
    """Largest distance (rows or columns) at which changing any one of `pixels` changes an output, in float64."""
    model = model.double()
    images = draw(model.signature, size, batch=1, seed=seed).double()
    before = evaluate(model, images)[output]
    farthest = 0
    for row, column in pixels:
        other = images.clone()
        other[..., row, column] += 5.0
        rows, columns = torch.nonzero((evaluate(model, other)[output] != before).any(1)[0], as_tuple=True)
        farthest = max(farthest, int((rows - row).abs().max()), int((columns - column).abs().max()))
    return farthest
