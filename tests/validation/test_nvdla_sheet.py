"""The formulas of NVDLA's performance sheet, one by one."""

from hwopt.validation.nvdla_sheet import Habits, Layer, bound, nv_full


def test_the_machine_is_that_of_the_library():
    """2048 MACs, a buffer of 512 KiB and 10 GB/s: the sheet's figures."""
    assert (nv_full().macs, nv_full().buffer_kib, nv_full().dram_gb_per_s) == (2048, 512, 10)


def test_positions_of_padded_and_unpadded_layers():
    """A padded layer sweeps its whole input; another as many positions as the kernel fits."""
    size = {"channels": 16, "kernels": 16, "kernel": (3, 3), "stride": 1}
    unit = 16 * 16 * 9 / 2048
    padded = Layer(height=8, width=8, result=(8, 8), output=(8, 8), **size)
    bare = Layer(height=8, width=8, result=(6, 6), output=(6, 6), **size)
    assert padded.mac_cycles(16) == 64 * unit
    assert bare.mac_cycles(16) == 36 * unit
    assert padded.mac_cycles(128) == 8 * padded.mac_cycles(16)


def test_input_is_read_again_only_where_it_is_the_larger():
    """And never where the sheet's habit for the network is to read it once."""
    shape = {"height": 28, "width": 28, "stride": 1, "result": (28, 28), "output": (28, 28)}
    habits = Habits(rereads=True)
    wide = Layer(channels=1024, kernels=700, kernel=(1, 1), habits=habits, **shape)
    assert (wide.input_kib, wide.weight_kib, wide.input_passes) == (784, 700, 2)
    assert Layer(channels=1024, kernels=700, kernel=(1, 1), **shape).input_passes == 1
    narrow = Layer(channels=1024, kernels=800, kernel=(1, 1), habits=habits, **shape)
    assert narrow.input_passes == 1


def test_equals_are_bound_by_the_first_stage():
    """A tie names the MACs."""
    layer = Layer(64, 56, 56, 256, (1, 1), 1, (56, 56), (56, 56))
    assert bound((layer.without_sram()[0],) * 2).name == "MAC"
