"""The public names: the one list, read by `__init__.py` and by type checkers."""

from .cost.cost import Cost as Cost, evaluate as evaluate
from .dse.space import DesignSpace as DesignSpace
from .dse.study import Study as Study, search as search
from .errors import HwoptError as HwoptError, InfeasibleError as InfeasibleError
from .frontend.capture import trace as trace
from .hardware.accelerator import (
    Accelerator as Accelerator,
    Compute as Compute,
    Fanout as Fanout,
    Memory as Memory,
    Vector as Vector,
)
from .hardware.cluster import Cluster as Cluster, Link as Link
from .hardware.conventions import Conventions as Conventions
from .hardware.library import load as load
from .ir.access import Access as Access, Affine as Affine, Axis as Axis
from .ir.graph import Graph as Graph
from .ir.interpret import interpret as interpret
from .ir.op import Gather as Gather, Nest as Nest, Op as Op, Opaque as Opaque, Scan as Scan
from .ir.program import Constraint as Constraint, Group as Group, Program as Program
from .ir.tensor import Tensor as Tensor
from .ir.text import parse as parse, print_graph as print_graph
from .ir.verify import verify as verify
from .mapping.best import best_mapping as best_mapping
from .mapping.mapping import Keep as Keep, Loop as Loop, Mapping as Mapping, Spread as Spread
from .mapping.problem import Problem as Problem
from .mapping.staircase import staircase as staircase
from .passes.canonicalize import Canonicalize as Canonicalize
from .passes.classify import Classify as Classify
from .passes.dataflow import Dataflow as Dataflow
from .passes.decompose import Decompose as Decompose
from .passes.eliminate import Eliminate as Eliminate
from .passes.fuse import Fuse as Fuse
from .passes.manager import (
    Pass as Pass,
    PassManager as PassManager,
    parse_pipeline as parse_pipeline,
)
from .passes.tile import Tile as Tile
