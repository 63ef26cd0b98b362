r"""From conversations and answers to tokens.

A prompt is the chat template's rendering of its turns with the generation prompt at its end; an
answer is tokenised by itself and ends with the end-of-text token. So the border between what is
given and what is learned is exact whatever the tokenizer would have merged across it, and training
sees the very tokens that generation starts from:

    <s>Human:\n2 + 2?\n\nAssistant:\n    4</s>
    prompt                               answer: trained

Text of the data never becomes a control token: where a turn holds, say, "</s>", its characters are
tokenised as characters. Templates run in the sandbox of `transformers`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlhf.data.columns import Conversation, RowError

DEFAULT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- set role = message['role'] %}
{{- {'system': 'System', 'user': 'Human', 'assistant': 'Assistant'}.get(role, role | capitalize) }}
{{- ':\\n' + message['content'] }}
{%- if role == 'assistant' %}{{ eos_token }}{% endif %}
{{- '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}
"""
"""Plain text; an answer of an earlier turn ends with the end of text, as it did when sampled."""


PYTHON_ERRORS = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What an expression of a template can raise besides jinja2's own."""


def render(tokenizer: Any, conversation: Conversation) -> str:
    """The conversation as the template writes it, with the generation prompt.

    No turns give the beginning-of-text token alone. Raises `RowError` where the template refuses.
    """
    from jinja2 import TemplateError

    if not conversation:
        return str(tokenizer.bos_token or tokenizer.eos_token)
    turns = [{"role": turn.role, "content": turn.content} for turn in conversation]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except (TemplateError, *PYTHON_ERRORS) as error:
        raise RowError("template", f"{type(error).__name__}: {error}") from error
    return str(text)


def encode_prompt(tokenizer: Any, conversation: Conversation) -> list[int]:
    """Tokens of one conversation, generation prompt included. Raises `RowError`."""
    (tokens,) = encode_prompts(tokenizer, [conversation])
    if isinstance(tokens, RowError):
        raise tokens
    return tokens


def encode_prompts(
    tokenizer: Any, conversations: Sequence[Conversation]
) -> list[list[int] | RowError]:
    """Tokens of each conversation, one at least; a `RowError` in its place where it has none."""
    rendered: list[str | RowError] = []
    for conversation in conversations:
        try:
            rendered.append(render(tokenizer, conversation))
        except RowError as error:
            rendered.append(error)
    encoded = iter(_encode(tokenizer, [t for t in rendered if isinstance(t, str)], control=True))
    control = _control_tokens(tokenizer)
    found: list[list[int] | RowError] = []
    for text, conversation in zip(rendered, conversations, strict=True):
        if isinstance(text, RowError):
            found.append(text)
            continue
        tokens: list[int] | RowError = next(encoded)
        if control is not None and any(control.search(turn.content) for turn in conversation):
            tokens = _encode_apart(tokenizer, text, conversation)
        found.append(tokens or [tokenizer.bos_token_id])
    return found


def encode_answers(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each answer without the end of text; its text holds no control tokens."""
    return _encode(tokenizer, texts, control=False)


def _encode(tokenizer: Any, texts: Sequence[str], *, control: bool) -> list[list[int]]:
    if not texts:
        return []
    found = tokenizer(
        list(texts), add_special_tokens=False, padding=False, truncation=False, verbose=False,
        return_attention_mask=False, return_token_type_ids=False, split_special_tokens=not control,
    )["input_ids"]  # fmt: skip
    return [list(row) for row in found]


def _control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Matches any text that the tokenizer would read as a control token."""
    found = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    found.update(map(str, tokenizer.all_special_tokens))
    return re.compile("|".join(map(re.escape, sorted(found)))) if found else None


def _encode_apart(tokenizer: Any, text: str, conversation: Conversation) -> list[int] | RowError:
    """Like a plain encoding, but each turn's own text is read as characters."""
    pieces: list[tuple[str, bool]] = []
    position = 0
    for turn in conversation:
        content = next(
            (c for c in (turn.content, turn.content.strip()) if c in text[position:]), ""
        )
        if not content and turn.content.strip():
            return RowError("template", "it changes a turn that holds the text of a control token")
        start = text.index(content, position)
        pieces += [(text[position:start], True), (content, False)]
        position = start + len(content)
    pieces.append((text[position:], True))
    tokens: list[int] = []
    for piece, control in pieces:
        if piece:
            tokens += _encode(tokenizer, [piece], control=control)[0]
    return tokens
