"""Tracing: from a user's ``nn.Module`` to a ``Graph`` of single steps whose sizes are known and whose batch is open.

The way of a network through this room, in the order of ``trace.trace``:

1. ``checks`` refuses what cannot be traced at all and gives the example inputs their names.
2. ``tracer`` runs the user's ``forward`` once with proxies in place of tensors (``torch.fx``). For every call that
   the forward makes, ``steps`` computes the call on the examples **and** on a batch twice as large, and ``proxies``
   carries both results. Two results tell sizes of the network (equal in both: channels, heights) from sizes of the
   batch (doubled). The former are handed to the user's code as ordinary Python values, so that ``if``, loops and
   arithmetic on them just work; the latter stay symbolic and become steps of the graph.
3. Two batch sizes are not enough for arithmetic on the batch itself: ``batch // 64`` is 0 at batch 3 and at batch 6.
   ``batch_sizes`` therefore computes such numbers at some hundred batch sizes before it lets Python decide by them.
4. ``modes`` compares the graphs of train and eval mode. A module that reads ``self.training`` becomes one step.
5. ``raw_graph`` copies the graph of eval mode into nodes of ``qkd_deploy.graph.ir``. Every fact that later rooms need
   (shape, dimensions that follow the batch, type, the user's line) is a field of its node.

``expansions``, ``derived_modules`` and ``batch_norms`` take modules apart that would hide layers inside one step.
``errors`` makes one sentence of whatever goes wrong: the module, the user's line and the way out.
"""
