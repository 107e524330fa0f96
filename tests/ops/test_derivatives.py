"""Derivatives of the ops: exact in float64, of first order in float32, under torch.func, and never lost in silence."""

import warnings

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import pygrade
from pygrade.ops.fusion import TRANSFORMS
from pygrade.reference.tolerances import assert_close, same_bits
from tests.ops.test_arguments import DIFFERENTIABLE, FORMS, INPUTS, OPS, parts, tensors, with_gradient

GRADIENTS = [*DIFFERENTIABLE.items(), ("fuse_scores", "weights"), ("fuse_topk", "weights"), ("dirichlet_kl", "weights")]


def doubles(batch=1):
    return {key: value.double() if value.dtype == torch.float32 else value for key, value in tensors(batch).items()}


def one_input(call, name, arguments):
    """The first result of a call as a function of the named argument."""
    return lambda value: parts(call(**arguments | {name: value}))[0]


@pytest.mark.parametrize(("name", "of"), GRADIENTS)
def test_float64_passes_gradcheck_and_float32_has_its_gradient(name, of):
    arguments = doubles(2)
    function = one_input(OPS[name], of, arguments)
    leaf = arguments[of].clone().requires_grad_()
    assert function(leaf).dtype == torch.float64
    assert gradcheck(function, leaf)
    if (name, of) != ("fuse_topk", "scores"):  # by rank, whose gradient is 0
        assert gradgradcheck(function, leaf)
    assert_close(with_gradient(OPS[name], tensors(2), of)[1], with_gradient(OPS[name], arguments, of)[1])


@pytest.mark.parametrize("form", ["dense", "shared", "samples", "jagged", "jagged samples", "task-major"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_fused_scores_and_pages_have_exact_gradients(transform, form):
    given = doubles(2)
    scores, weights, options = given["scores"], given["samples" if "samples" in form else "weights"], {}
    if form == "shared":
        weights = weights[0]
    if "jagged" in form:
        scores, options = scores.flatten(0, 1), {"offsets": torch.tensor([0, 7, 18])}
    if form == "task-major":
        scores, options = scores.mT.contiguous(), {"layout": "task-major"}
    exact = [leaf.clone().requires_grad_() for leaf in (scores, weights)]
    single = [leaf.float().requires_grad_() for leaf in (scores, weights)]
    fused = lambda s, w: pygrade.fuse_scores(s, w, transform, **options)  # noqa: E731
    page = lambda s, w: pygrade.fuse_topk(s, w, 8, transform, **options).values[..., :7]  # noqa: E731
    for function in (fused, page):
        assert gradcheck(function, exact)
        for one, other in zip(
            *(torch.autograd.grad(slopes(function(*g)).sum(), g) for g in (single, exact)), strict=True
        ):
            scale = 4 * other.abs().max().clamp_min(1e-9)  # the z-score's gradient is a difference of sums
            assert_close(one / scale.float(), other / scale)
    with_pads = pygrade.fuse_topk(*single, 12, transform, **options).values
    (gradient,) = torch.autograd.grad(with_pads[with_pads.isfinite()].sum(), single[1])
    assert gradient.isfinite().all()


def slopes(values):
    return values * torch.linspace(-1.0, 2.0, values.numel(), dtype=values.dtype).view_as(values)


def test_mixed_dtypes_are_refused_by_name():
    given = tensors()
    with pytest.raises(
        TypeError, match=r"^weights is float32; expected float64, as scores is, such as weights.double\(\)"
    ):
        pygrade.fuse_scores(given["scores"].double(), given["weights"])
    with pytest.raises(TypeError, match=r"^log_weights is float64; expected float32, such as log_weights.float\(\)"):
        pygrade.dirichlet_log_prob(given["alpha"], given["logs"].double())


def stacked(rows):
    """Arguments of three calls with ``rows`` requests, and all of them as [3, …]."""
    known = tensors(3 * rows).items()
    calls = [{k: v[i * rows :][:rows] if len(v) == 3 * rows else v for k, v in known} for i in range(3)]
    return calls, {key: torch.stack([call[key] for call in calls]) for key in calls[0]}


SHARED = {"discount", "lists", "bounds"}  # no batch in them: vmap over these calls again and again


@pytest.mark.parametrize("mapped", ["first", "rows", "all"])
@pytest.mark.parametrize("name", [*OPS, *(f for f in FORMS if "into" not in f and "search_page" not in f)])
def test_vmap_is_a_loop_of_calls(name, mapped):
    calls, every = stacked(1 if name in FORMS else 2)
    keys = {"first": {INPUTS[name.split(",")[0]]}, "rows": every.keys() - SHARED, "all": every.keys()}[mapped]
    mix = lambda call: {key: (call if key in keys else calls[0])[key] for key in every}  # noqa: E731
    function, dims = (OPS | FORMS)[name], {key: 0 if key in keys else None for key in every}
    found = torch.func.vmap(lambda given: function(**given), in_dims=(dims,))(mix(every))
    for i, call in enumerate(calls):
        assert all(same_bits(a[i], b) for a, b in zip(parts(found), parts(function(**mix(call))), strict=True))


def test_vmap_into_given_memory_is_refused():
    alpha = tensors(4)["alpha"][:, None]
    out = torch.empty(4, 1, 5, 3), torch.empty(4, 1, 5, 3), torch.empty(4, 1, 5)
    with pytest.raises(RuntimeError, match=r"under torch.func.vmap writes into out; expected no out"):
        torch.func.vmap(lambda a, o: pygrade.dirichlet_sample(a, 5, 1, out=o))(alpha, out)


@pytest.mark.parametrize(("name", "of"), GRADIENTS)
def test_grad_and_vmap_of_grad(name, of):
    calls, every = stacked(2)
    function = lambda value, rest: one_input(OPS[name], of, rest)(value).sum()  # noqa: E731
    found = torch.func.vmap(torch.func.grad(function))(every[of], every)
    for i, call in enumerate(calls):
        expected = with_gradient(OPS[name], call, of)[1]
        assert_close(torch.func.grad(function)(call[of], call), expected.double())
        assert_close(found[i], expected.double())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch's own, in torch.func.jvp
@pytest.mark.parametrize(("name", "of"), GRADIENTS)
def test_forward_mode_is_exact_in_float64_and_refused_in_float32(name, of):
    arguments, tangent = doubles(), torch.rand(tensors()[of].shape, dtype=torch.float64)
    function = one_input(OPS[name], of, arguments)
    _, found = torch.func.jvp(function, (arguments[of],), (tangent,))
    assert_close(found, torch.autograd.functional.jvp(function, arguments[of], tangent)[1])
    if name == "format_penalty":  # plain torch
        return
    single, refusal = tensors(), f"{name} has no derivative of forward mode in float32; expected float64"
    function = one_input(OPS[name], of, single)
    with pytest.raises(NotImplementedError, match=refusal):
        torch.func.jvp(function, (single[of],), (tangent.float(),))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=refusal):
        function(forward_ad.make_dual(single[of], tangent.float()))


LOST = [("dirichlet_log_prob", "logs", "log_weights"), ("dirichlet_score", "advantages", "coefficients")]
LOST += [("grpo_loss", "old", "old_log_prob"), ("lambda_loss", "labels", "gains"), ("search_page", "labels", "root")]
LOST += [("group_advantage", "rewards", "rewards"), ("topk_gain", "gains", "gains")]
LOST += [(name, "scores", "scores") for name in ("topk_gain", "rank", "rollout")]


@pytest.mark.parametrize(("name", "of", "argument"), LOST)
def test_a_gradient_that_is_lost_is_said(name, of, argument):
    arguments = tensors()
    leaf = arguments[of].clone().requires_grad_()
    with pytest.warns(
        UserWarning, match=f"^{argument} requires a gradient, and {name} gives it none; expected {argument}."
    ):
        found = OPS[name](**arguments | {of: leaf})
    assert not any(part.requires_grad for part in parts(found))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        OPS[name](**arguments | {of: leaf})


def test_a_page_into_given_memory_has_no_gradient():
    given = tensors()
    out, weights = pygrade.fuse_topk(given["scores"], given["weights"], 3), given["weights"].clone().requires_grad_()
    with pytest.raises(ValueError, match=r"^weights requires a gradient and out is given; expected weights.detach\(\)"):
        pygrade.fuse_topk(given["scores"], weights, 3, out=out)
    assert not pygrade.fuse_topk(given["scores"], weights.detach(), 3, out=out).values.requires_grad
