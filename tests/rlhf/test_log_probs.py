"""Log-probabilities of tokens: against torch's log-softmax, in chunks, with gradients."""

import pytest
import torch

from rlhf import log_probs
from rlhf.log_probs import token_log_probs


@pytest.fixture(params=["whole", "chunked"])
def chunks(request, monkeypatch):
    """Once in one chunk, once two tokens at a time."""
    if request.param == "chunked":
        monkeypatch.setattr(log_probs, "CHUNK_ELEMENTS", 2 * 11)


def drawn(dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 5, 11, generator=generator).to(dtype) * 3
    return logits.requires_grad_(), torch.randint(11, (3, 5), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_log_softmax(chunks, temperature):
    """Values and gradients are those of autograd through log-softmax of logits / temperature."""
    logits, targets = drawn()
    weights = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(6))
    found, entropy = token_log_probs(logits, targets, temperature=temperature, entropy=True)
    ((found * weights[0]) + (entropy * weights[1])).sum().backward()
    twin = logits.detach().clone().requires_grad_()
    logs = (twin / temperature).log_softmax(-1)
    expected, spread = logs.gather(2, targets[..., None])[..., 0], -(logs.exp() * logs).sum(-1)
    ((expected * weights[0]) + (spread * weights[1])).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy, spread)
    torch.testing.assert_close(logits.grad, twin.grad)


def test_gradient_by_differences(chunks):
    """The backward pass is the derivative, checked by finite differences in float64."""
    logits, targets = drawn(torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: token_log_probs(z, targets, temperature=1.3, entropy=True), (logits,)
    )


def test_sixteen_bits_are_summed_in_float32():
    """bf16 logits give the log-probs of the same logits in float32, and bf16 gradients."""
    logits, targets = drawn(torch.bfloat16)
    (found,) = token_log_probs(logits, targets)
    (exact,) = token_log_probs(logits.float(), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact)
    found.sum().backward()
    assert logits.grad.dtype == torch.bfloat16


def test_a_word_that_cannot_be():
    """A logit of minus infinity has probability zero: entropy and gradients stay finite."""
    logits, targets = drawn()
    logits = logits.detach()
    logits[..., 3] = -torch.inf
    logits.requires_grad_()
    found, entropy = token_log_probs(logits, targets.masked_fill(targets == 3, 0), entropy=True)
    (found.sum() + entropy.sum()).backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(entropy).all()
    assert torch.isfinite(logits.grad).all()


def test_nothing_to_do():
    """No columns give no columns."""
    (found,) = token_log_probs(torch.zeros(2, 0, 5), torch.zeros(2, 0, dtype=torch.int64))
    assert found.shape == (2, 0)
