"""Configurations of the library's language models as data."""

import subprocess
import sys

import pytest
import transformers

import hwopt
from hwopt.errors import UnknownNameError


def test_a_configuration_is_a_config_json():
    """Transformers makes of it what the registry's entry is built from."""
    config = hwopt.model_config("opt-1.3b")
    assert config["architectures"] == ["OPTForCausalLM"]
    made = transformers.AutoConfig.for_model(**config)
    assert (made.hidden_size, made.num_hidden_layers) == (2048, 24)


def test_each_call_gives_its_own():
    """A caller may change what it got."""
    hwopt.model_config("opt-1.3b")["hidden_size"] = 1
    assert hwopt.model_config("opt-1.3b")["hidden_size"] == 2048


def test_unknown_name():
    """The nearest names are told."""
    with pytest.raises(UnknownNameError, match=r"opt-1\.3b"):
        hwopt.model_config("opt-1.4b")


def test_needs_no_torch():
    """Reading a configuration loads nothing heavy."""
    code = "import hwopt, sys; hwopt.model_config('opt-125m'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
