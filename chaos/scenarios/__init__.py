"""What can go wrong, a file each: the fault, the healing, the convergence, the verdict.

A scenario's docstring is its title; `NEEDS` names what it asks of the machine (`chaos.machine.NAMED`), and `INSIDE` the
namespaces of its own that it runs in (`net`, `mount`), which vanish with it.
"""
