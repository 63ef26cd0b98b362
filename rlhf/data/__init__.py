"""Data: sets of a plan as tokenised rows, one stage at a time.

sources    rows and their origin, from JSONL, JSON, CSV, Parquet, saved folders, the hub
adapters   rows of any form to rows of the usual columns; gsm8k is two of them
columns    from columns to a prompt and its answers
template   from conversations and answers to tokens
split      stages, held-out part, blend, batches: by content and seed, never by order
assembly   all of that for a stage, with a report of what became of every row
tokenized  the result: compact arrays, read as `Experience` or `Prompt`
cache      the result on disk, by the content that it follows from
"""

from __future__ import annotations

from rlhf.data.assembly import load_data
from rlhf.data.columns import Conversation, Message
from rlhf.data.report import DataReport, Dropped, SetReport
from rlhf.data.split import batch_at, batches, batches_per_epoch, share
from rlhf.data.template import encode_prompt
from rlhf.data.tokenized import Prompt, TokenizedSet

__all__ = [
    "Conversation",
    "DataReport",
    "Dropped",
    "Message",
    "Prompt",
    "SetReport",
    "TokenizedSet",
    "batch_at",
    "batches",
    "batches_per_epoch",
    "encode_prompt",
    "load_data",
    "share",
]
