"""Attention over dates: any bands, any dates, the wanted date's own radiometry, and a classical method at the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from netchecks import check_reload, check_samples_apart, overfit

from eoflow.models.filling import NearestClear
from eoflow.models.images import ImageSignature
from eoflow.models.restoration import RestorationLoss
from eoflow.models.temporal_attention import LOG_VARIANCE, TemporalAttention, _near, match, pushed_and_pulled

SIGNATURE = ImageSignature(4, 4, 0)
THREE = ImageSignature(4, 4, 3)
DAYS = torch.tensor([0.0, 10.0, 25.0], dtype=torch.float64)


def made(seed=0, signature=SIGNATURE, trained=True, **options):
    """A network; `trained`: with weights where training would have put them, so that zero starts hide nothing."""
    torch.manual_seed(seed)
    model = TemporalAttention(signature, **{"width": 8, "blocks": 2, **options})
    if trained:
        for layer in (model.weigh[-1], model.judge[-1], *(b.join for b in model.encoder)):
            torch.nn.init.normal_(layer.weight, std=0.3)
    return model.eval()


def series(height=16, width=24, dates=3, batch=2, channels=4, seed=0, share=0.6):
    """Reflectance of one ground on several days, and where it was seen."""
    g = torch.Generator().manual_seed(seed)
    ground = 0.1 + 0.3 * torch.rand(batch, 1, channels, height, width, generator=g)
    images = ground + 0.02 * torch.randn(batch, dates, channels, height, width, generator=g)
    return images, torch.rand(batch, dates, height, width, generator=g) < share


def run(model, *args, **keys):
    with torch.no_grad():
        return model(*args, **keys)


def same(a, b, atol=1e-5):
    for name in ("image", "log_variance"):
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 13), (31, 17)])
@pytest.mark.parametrize("dates", [1, 2, 5])
def test_any_size_and_number_of_dates(height, width, dates):
    images, usable = series(height, width, dates)
    for days in (None, 7.0 * torch.arange(dates)):
        out = run(made(), images, usable, days)
        assert {k: tuple(v.shape) for k, v in out.items()} == dict.fromkeys(
            ("image", "log_variance"), (2, 4, height, width)
        )
        assert all(bool(v.isfinite().all()) for v in out.values())


def test_further_bands_follow_with_the_weights_of_the_first():
    model, (images, usable) = made(), series(channels=4)
    more = torch.cat([images, images[:, :, 1:2], 0.5 * images[:, :, 2:3]], dim=2)
    out, plain = run(model, more, usable, None), run(model, images, usable, None)
    torch.testing.assert_close(out["image"][:, :4], plain["image"])
    torch.testing.assert_close(out["image"][:, 4], plain["image"][:, 1])
    torch.testing.assert_close(out["image"][:, 5], 0.5 * plain["image"][:, 2])
    with pytest.raises(ValueError, match="looks at 4"):
        model(images[:, :, :3], usable)


def test_the_order_of_dates_does_not_matter():
    model, (images, usable) = made(), series(dates=3)
    order = [2, 0, 1]
    a = run(model, images, usable, DAYS, torch.tensor(10.0))
    same(run(model, images[:, order], usable[:, order], DAYS[order], torch.tensor(10.0)), a)
    assert not torch.allclose(run(model, images, usable, DAYS, torch.tensor(0.0))["image"], a["image"], atol=1e-4)


def test_a_date_that_holds_nothing_changes_nothing():
    model, (images, usable) = made(), series(dates=2)
    hole = torch.zeros_like(images[:, :1])
    for empty in (hole, hole * torch.nan):
        more = run(
            model, torch.cat([images, empty], 1), torch.cat([usable, usable[:, :1]], 1), DAYS, torch.tensor(10.0)
        )
        same(more, run(model, images, usable, DAYS[:2], torch.tensor(10.0)), atol=1e-4)


def test_samples_of_a_batch_do_not_see_each_other():
    check_samples_apart(made(signature=THREE))
    model, (images, usable) = made(), series(batch=3)
    together = run(model, images, usable, DAYS)
    for i in range(3):
        same(run(model, images[i : i + 1], usable[i : i + 1], DAYS), {k: v[i : i + 1] for k, v in together.items()})


def test_equals_itself_after_saving_and_every_weight_lives(tmp_path):
    check_reload(lambda: made(torch.initial_seed(), THREE), tmp_path)
    model = made().train()
    images, usable = series(dates=3)
    out = model(images, usable, DAYS, torch.tensor(10.0))
    sum((x * torch.randn(x.shape)).sum() for x in out.values()).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not dead


def test_untrained_it_is_the_nearest_clear_date_where_days_are_far_apart():
    images, usable = series()
    days = torch.tensor([0.0, 200.0, 500.0], dtype=torch.float64)
    model = made(trained=False)
    out = run(model, images, usable, days, torch.tensor(190.0, dtype=torch.float64))["image"]
    nearest = NearestClear(SIGNATURE)(images, usable, days, torch.tensor(190.0))["image"]
    seen = usable.any(1)[:, None].expand_as(out)
    assert float((out - nearest)[seen].abs().median()) < 2e-3


def test_what_the_wanted_date_saw_stays_and_its_radiometry_is_met():
    """The other date is the same ground through another gain and offset: the hidden half comes out nearly exact."""
    g = torch.Generator().manual_seed(3)
    truth = 0.05 + 0.4 * torch.rand(1, 4, 64, 64, generator=g)
    other = 0.8 * truth + 0.05
    usable = torch.ones(1, 2, 64, 64, dtype=torch.bool)
    usable[:, 0, :, 32:] = False
    cloudy = torch.where(usable[:, :1], truth, 0.8)
    images = torch.stack([cloudy, other], dim=1)
    out = run(made(trained=False), images, usable, torch.tensor([5.0, 0.0]), torch.tensor(5.0))["image"]
    error = (out - truth).abs()
    assert float(error[..., :32].max()) < 5e-3
    assert float(error[..., 32:].mean()) < 0.02 < float((other - truth)[..., 32:].abs().mean())


def test_matching_is_least_squares_and_stays_near_the_identity_without_evidence():
    g = torch.Generator().manual_seed(4)
    truth = torch.rand(1, 3, 100, 100, generator=g)
    mix = torch.tensor([[0.9, 0.1, 0.0], [0.0, 1.1, 0.05], [0.0, -0.1, 1.0]])
    other = torch.einsum("ij,bjhw->bihw", mix, truth) + 0.02
    usable = torch.ones(1, 2, 100, 100, dtype=torch.bool)
    own = torch.tensor([[True, False]])
    matched, error, evidence = match(torch.stack([truth, other], 1), usable, own, 1e-7)
    x = np.c_[other[0].flatten(1).T.numpy(), np.ones(10_000)]
    fitted = x @ np.linalg.lstsq(x, truth[0].flatten(1).T.numpy(), rcond=None)[0]
    assert np.abs(matched[0, 1].flatten(1).T.numpy() - fitted).max() < 0.02
    assert evidence.tolist() == [[False, True]]
    assert float(error.max()) < 1e-3
    alone, _, none = match(torch.stack([truth, other], 1), usable & ~own[..., None, None], own, 1e-7)
    torch.testing.assert_close(alone[:, 1], other)
    assert not bool(none.any())


def test_an_outlier_does_not_tilt_the_matching():
    images, usable = series(64, 64, 2, batch=1, share=1.1)
    own = torch.tensor([[True, False]])
    plain, _, _ = match(images, usable, own, 2e-5)
    cloud = images.clone()
    cloud[:, 0, :, :12, :12] = 0.9  # a cloud on the wanted date that its mask does not know
    spoilt, _, _ = match(cloud, usable, own, 2e-5)
    assert float((spoilt[:, 1] - plain[:, 1]).abs().mean()) < 4e-3


def test_holes_are_filled_from_around():
    image = torch.linspace(0, 1, 64).expand(1, 2, 64, 64).clone()
    known = torch.ones(1, 64, 64, dtype=torch.bool)
    known[:, 20:40, 20:40] = False
    filled = pushed_and_pulled(image.masked_fill(~known[:, None], 99.0), known)
    assert float((filled - image)[:, :, 20:40, 20:40].abs().max()) < 0.15
    torch.testing.assert_close(filled[:, :, :16], image[:, :, :16], atol=1e-5, rtol=0)
    assert bool((pushed_and_pulled(image, torch.zeros_like(known)) == 0).all())


@pytest.mark.parametrize("kind", ["nothing seen", "nothing there", "identical", "white"])
def test_degenerate_series_give_finite_images(kind):
    images, usable = series()
    if kind == "nothing seen":
        usable = torch.zeros_like(usable)
    elif kind == "nothing there":
        images = torch.full_like(images, torch.nan)
    elif kind == "identical":
        images = images[:, :1].expand_as(images)
    else:
        images = torch.full_like(images, 0.8)
    for days in (None, DAYS):
        out = run(made(), images, usable, days)
        assert bool(out["image"].isfinite().all())
        assert LOG_VARIANCE[0] <= float(out["log_variance"].min()) <= float(out["log_variance"].max())
        assert float(out["log_variance"].max()) <= LOG_VARIANCE[1]
    if kind == "identical":
        seen = usable.any(1)[:, None].expand_as(images[:, 0])
        near = (out["image"] - images[:, 0])[seen].abs()
        assert float(near.median()) < 1e-3


def test_learns_to_reject_a_cloud_that_no_mask_knows():
    images, usable = series(16, 16, 3, batch=4, share=1.1)
    truth = images.mean(1)
    images = images.clone()
    images[:, 0, :, 4:12, 4:12] += 0.4
    model = made(trained=False).train()
    loss = RestorationLoss(l1=10.0, l2=20.0)
    first, last = overfit(model, lambda m: loss(m(images, usable), truth, usable)["loss"], 60, lr=1e-2, clip=1.0)
    assert last < 0.4 * first


@pytest.mark.parametrize("wrong", [{"width": 0}, {"blocks": 0}, {"reach": 0.0}, {"power": 0.0}, {"ridge": -1.0}])
def test_options_that_make_no_network(wrong):
    with pytest.raises(ValueError, match="positive"):
        made(**wrong)


def test_pointwise_layers_stand_where_they_cost_least_and_give_the_same():
    """What the heads begin with, as the layers say it: enlarged and joined first, and the mean over dates of that."""
    model = made()
    images, usable = series(channels=4)
    given = model.before(images, usable, DAYS, torch.tensor(10.0))
    roles, code = 4, given["code"].to(images.dtype)
    matched, usual = given["matched"], given["usual"]
    features = torch.cat([
        10 * (matched - usual[:, None]), 3 * given["images"], 10 * (given["images"] - matched),
        given["usable"][:, :, None].to(images.dtype), code[..., None, None].expand(-1, -1, -1, *images.shape[-2:]),
    ], dim=2)  # fmt: skip
    assert features.shape[2] == 3 * roles + 4
    x = features.flatten(0, 1)
    with torch.no_grad():
        y = F.gelu(model.cells(torch.cat([F.avg_pool2d(x, 4), F.max_pool2d(x, 4)], 1))).unflatten(0, (2, 3))
        share = F.avg_pool2d(given["there"].float(), 4)[:, :, None] + 1e-6
        for block in model.encoder:
            y = block(y, share / share.sum(1, keepdim=True))
        large = F.interpolate(y.flatten(0, 1), scale_factor=4, mode="bilinear")
        hidden = torch.cat([F.gelu(model.pixels(x)), large], 1).unflatten(0, (2, 3))
        score = given["score"] + model.weigh(hidden.flatten(0, 1)).reshape(given["score"].shape)
        weights = score.softmax(1)[:, :, None]
        told = model.network(**given)
        found = (matched * weights).sum(1)
        spread = ((matched - found[:, None]).square() * weights).sum(1)
        about = torch.cat([
            (hidden * weights).sum(1), given["usable"].any(1)[:, None].float(),
            (given["usable"].sum(1, keepdim=True) / 4).log1p(), (given["days"][..., None, None] * weights).sum(1),
            5 * spread.mean(1, keepdim=True).add(1e-8).sqrt(),
        ], dim=1)  # fmt: skip
        judged = model.judge(about)
    torch.testing.assert_close(told["found"], found, rtol=0, atol=1e-5)
    torch.testing.assert_close(told["spread"], spread, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([told["keep"], told["doubt"]], 1), judged, rtol=0, atol=1e-4)


def test_near_is_a_sixth_of_the_square_around():
    mask = torch.rand(2, 30, 41, generator=torch.Generator().manual_seed(0)) < 0.17
    share = F.avg_pool2d(mask[:, None].double(), 9, 1, 4, count_include_pad=False)[:, 0]
    clear = (share - 1 / 6).abs() > 1e-9
    assert torch.equal(_near(mask, 4)[clear], (share > 1 / 6)[clear])
    edge = torch.zeros(1, 20, 20, dtype=torch.bool)
    edge[:, :2, :3] = True  # 6 of the 36 pixels that the square of the corner has: a sixth and no more
    assert not _near(edge, 5)[0, 0, 0]
    edge[:, 2, 0] = True
    assert _near(edge, 5)[0, 0, 0]
