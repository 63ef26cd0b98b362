"""The algorithms, one self-contained file each; a plan names them by their `name`.

Adding one is adding its file and its line here.
"""

from __future__ import annotations

from typing import TypeAlias

from rlhf.algorithms.ppo import PPO
from rlhf.algorithms.reward import RewardModel
from rlhf.algorithms.sft import SFT

AlgorithmOptions: TypeAlias = SFT | RewardModel | PPO
