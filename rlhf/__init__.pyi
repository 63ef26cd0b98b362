from .errors import RlhfError as RlhfError
from .estimate import choose as choose
from .estimate import profile as profile
from .experience import Experience as Experience
from .plan import Plan as Plan
from .trainer import Trainer as Trainer
