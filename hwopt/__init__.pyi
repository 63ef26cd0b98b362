from .commandline import command_line as command_line
from .commandline import print_json as print_json
from .commandline import run_command_line as run_command_line
from .cost.cost import Cost as Cost
from .cost.cost import evaluate as evaluate
from .cost.floor import LowerBound as LowerBound
from .cost.floor import lower_bound as lower_bound
from .dse.space import DesignSpace as DesignSpace
from .dse.study import Study as Study
from .dse.study import search as search
from .errors import HwoptError as HwoptError
from .errors import InfeasibleError as InfeasibleError
from .errors import TraceError as TraceError
from .files import (
    cache_dir as cache_dir,
)
from .files import (
    dump_yaml as dump_yaml,
)
from .files import (
    inside as inside,
)
from .files import (
    parse_json as parse_json,
)
from .files import (
    read_json as read_json,
)
from .files import (
    read_text as read_text,
)
from .files import (
    read_yaml as read_yaml,
)
from .files import (
    write_bytes as write_bytes,
)
from .files import (
    write_json as write_json,
)
from .files import (
    write_text as write_text,
)
from .frontend.capture import trace as trace
from .hardware.accelerator import (
    Accelerator as Accelerator,
)
from .hardware.accelerator import (
    Compute as Compute,
)
from .hardware.accelerator import (
    Fanout as Fanout,
)
from .hardware.accelerator import (
    Memory as Memory,
)
from .hardware.accelerator import (
    Vector as Vector,
)
from .hardware.accelerator import explain as explain
from .hardware.cluster import Cluster as Cluster
from .hardware.cluster import Link as Link
from .hardware.conventions import Conventions as Conventions
from .hardware.host import available_bytes as available_bytes
from .hardware.host import this_machine as this_machine
from .hardware.library import load as load
from .hardware.library import load_cluster as load_cluster
from .ir.access import Access as Access
from .ir.access import Affine as Affine
from .ir.access import Axis as Axis
from .ir.graph import Graph as Graph
from .ir.interpret import interpret as interpret
from .ir.op import Gather as Gather
from .ir.op import Nest as Nest
from .ir.op import Op as Op
from .ir.op import Opaque as Opaque
from .ir.op import Scan as Scan
from .ir.program import Constraint as Constraint
from .ir.program import Group as Group
from .ir.program import Program as Program
from .ir.resize import Marks as Marks
from .ir.resize import marks as marks
from .ir.resize import resized as resized
from .ir.tensor import Tensor as Tensor
from .ir.text import parse as parse
from .ir.text import print_graph as print_graph
from .ir.verify import verify as verify
from .mapping.best import best_mapping as best_mapping
from .mapping.mapping import Keep as Keep
from .mapping.mapping import Loop as Loop
from .mapping.mapping import Mapping as Mapping
from .mapping.mapping import Spread as Spread
from .mapping.problem import Problem as Problem
from .mapping.staircase import staircase as staircase
from .models.presets import model_config as model_config
from .passes.canonicalize import Canonicalize as Canonicalize
from .passes.classify import Classify as Classify
from .passes.dataflow import Dataflow as Dataflow
from .passes.decompose import Decompose as Decompose
from .passes.eliminate import Eliminate as Eliminate
from .passes.fuse import Fuse as Fuse
from .passes.manager import (
    Pass as Pass,
)
from .passes.manager import (
    PassManager as PassManager,
)
from .passes.manager import (
    parse_pipeline as parse_pipeline,
)
from .passes.tile import Tile as Tile
from .quantities import show as show
from .quantities import show_bytes as show_bytes
from .registry import Registry as Registry
from .report.page import document as document
from .report.page import table as table
from .report.svg import Line as Line
from .report.svg import chart as chart

__version__: str
