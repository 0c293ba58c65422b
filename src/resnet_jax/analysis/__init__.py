"""What a network costs (`complexity`), what happens inside it (`responses`, `gradients`), what it is without some of
its blocks (`lesions`) or with more (`deepening`), where it looks (`cam`, `boxes`), what it answers when images move
(`invariance`) or are turned (`transforms`), what a unit sees (`receptive_field`), and pictures of all that (`pictures`)
and of what runs have done (`plots`).

Functions take a network or arrays; they know no config, no folder of a run and no terminal.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
