"""The operator-graph IR: what is computed.

Grammar of the textual form (`hwopt.ir.text`); `{ x }` repeats, `[ x ]` may be left out, words in
quotes stand for themselves, lists are separated by commas:

    graph     = 'graph' STRING  { definition | tensor | operator }  'return' [ %NAME, ... ]
    definition= '$'INT '=' body
    tensor    = typed
    operator  = results '=' [ '@'NAME ] kind 'on' resource '$'INT '(' %NAME, ... ')' [ phase ]
                [ '//' module line target ]            # three STRINGs: where it comes from
    results   = '()'  |  ( '%'NAME | typed ), ...      # a typed result declares its tensor
    typed     = '%'NAME ':' dtype '[' INT, ... ']' [ role ]             # role: else activation
    body      = nest | 'opaque' STRING
              | 'gather' NAME '{' attributes '}' touches work [ nests ]
              | 'scan' NAME '{' attributes '}' touches work 'depth' INT [ nests ]
    touches   = 'touches' '(' INT, ... ')' '->' '(' INT, ... ')'        # elements per operand
    work      = 'work' INT                                              # scalar operations
    nests     = 'nests' '(' '$'INT, ... ')'
    nest      = 'nest' '(' axis '=' INT, ... ')' 'reads' '(' access, ... ')' 'writes' access
                reduction scalar [ 'sequential' '(' axis, ... ')' ]
    access    = '[' affine, ... ']' [ 'else' NUMBER ]                   # the fill
    affine    = [ '-' ] part { ( '+' | '-' ) part }        part = INT | axis | INT '*' axis
    scalar    = '#'INT | '@'axis | NUMBER | 'True' | 'False' | function '(' scalar, ... ')'
    attributes= NAME '=' value, ...
    value     = NUMBER | STRING | 'True' | 'False' | 'None' | '(' value, ... ')'

An operator without '@'NAME bears the name of its first result. A NAME that is not made of letters,
digits, '_' and '.' stands in quotes. Lines may be indented; `//` starts a comment on a line of its
own or at the end of a definition or tensor. Example:

    graph "mlp"
      %x : float32[4, 6] input
      %w : float32[5, 6] parameter
      $0 = nest (m=4, n=5, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
      %h : float32[4, 5] = matmul on matrix $0(%x, %w) // "fc" "model.py:12" "aten.mm.default"
      $1 = nest (m=4, n=5) reads ([m, n]) writes [m, n] none maximum(#0, 0.0)
      %y : float32[4, 5] = relu on vector $1(%h)
    return %y
"""
