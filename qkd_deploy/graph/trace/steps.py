"""Running the calls of a traced network, one by one, on the examples and on twice as many."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.trace.batch_sizes import BATCHES, Unknown, at_other_batches, is_on_a_line, more_examples
from qkd_deploy.graph.trace.calls import Call
from qkd_deploy.graph.trace.derived_modules import plain_forward
from qkd_deploy.graph.trace.errors import Failed, Untraceable, by_batch, by_values
from qkd_deploy.graph.trace.modes import DROPOUT_FUNCTIONS
from qkd_deploy.graph.trace.shapes import has_tensor, require_open_batch, tensors_in


class StepRunner:
    """Computes what the calls of one network give.

    Attributes:
        is_running: true while a call is being computed; the tracer then leaves modules and parameters as they are.
    """

    def __init__(self, network: nn.Module, inputs: Mapping[str, Tensor], plain: set[str]) -> None:
        """Take the examples by the names of the arguments of ``forward``.

        ``plain`` are paths of modules that compute what PyTorch's own class does; the tracer adds to it.
        """
        self._network, self._plain = network, plain
        self._inputs = {name: (value, more_examples(value)) for name, value in inputs.items()}
        self._batch = next(iter(inputs.values())).shape[0]
        self.is_running = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Set ``is_running`` for the time of a computation."""
        self.is_running = True
        try:
            yield
        finally:
            self.is_running = False

    def run(self, call: Call) -> tuple[tuple[Any, ...], bool]:
        """Compute a call.

        Returns:
            its result for the examples, for twice as many, and for numbers that follow the batch at each of
            ``BATCHES`` (``Concrete.seen``); and whether the result is the first operand, unchanged.

        Raises:
            Failed: the call raises an error.
            Untraceable: its result depends on values, on chance, or on the batch in a way that no graph can hold.
        """
        if call.kind == "placeholder":
            return self._inputs[call.target], False
        if call.kind == "get_attr":
            value = self._compute(call)
            return (value, value), False
        if call.is_arithmetic:
            return self._run_at_all_batches(call), False
        return self._run_on_tensors(call)

    def _run_at_all_batches(self, call: Call) -> tuple[Any, ...]:
        """Compute arithmetic on the batch size wherever it exists; for the examples it has to."""
        others = range(2, 2 + len(BATCHES))
        return self._step(call, 0), self._step(call, 1), *(self._number(call, index) for index in others)

    def _number(self, call: Call, index: int) -> Any:
        try:
            return self._step(call, index)
        except Failed:
            return Unknown()

    def _run_on_tensors(self, call: Call) -> tuple[tuple[Any, ...], bool]:
        source = call.first_tensor
        version = 0 if source is None else source._version
        drawn = torch.get_rng_state()
        one, two = self._step(call, 0), self._step(call, 1)
        self._require_no_chance(call, drawn)
        if one is not None and not has_tensor(one):
            return self._described(call, one, two), False
        for pair in zip(tensors_in(one), tensors_in(two), strict=False):
            require_open_batch(*pair)
        if not all(is_on_a_line(number, self._batch) for number in call.numbers()):
            raise by_batch()
        # an in-place call returns its operand, but not as it was
        is_as_it_was = source is not None and source._version == version
        return (one, two), is_as_it_was and _equal(source, one)

    def _described(self, call: Call, one: Any, two: Any) -> tuple[Any, ...]:
        """Give a size at all batch sizes; refuse numbers that are read from a tensor's elements, as by ``item()``."""
        if not call.is_description:
            raise by_values()
        return (one, two, *at_other_batches(one, two, self._batch))

    def _step(self, call: Call, index: int) -> Any:
        try:
            return self._compute(call.at(index))
        except Exception as error:  # the user's code or example may raise anything
            raise Failed(doubled=index == 1) from error

    def _compute(self, call: Call) -> Any:
        """Compute a call whose arguments are values."""
        with self.running():
            if call.kind == "get_attr":
                return operator.attrgetter(call.target)(self._network)
            if call.kind == "call_method":
                return getattr(call.args[0], call.target)(*call.args[1:], **call.kwargs)
            if call.kind == "call_function":
                return call.target(*call.args, **call.kwargs)
            return self._compute_leaf(call)

    def _compute_leaf(self, call: Call) -> Any:
        module = self._network.get_submodule(call.target)
        with evaluating(module):  # a batch norm of one example has no statistics, and no statistics may change
            if call.target in self._plain:
                return plain_forward(module, *call.args)
            return module(*call.args, **call.kwargs)

    def _require_no_chance(self, call: Call, drawn: Tensor) -> None:
        """Refuse a call that has drawn random numbers in eval mode; a dropout without ``training=`` has its own error.

        Args:
            call: has just run.
            drawn: state of the random numbers before it ran.
        """
        if self._network.training or call.target in DROPOUT_FUNCTIONS:
            return
        if not torch.equal(drawn, torch.get_rng_state()):
            raise Untraceable(
                "it draws random numbers in eval mode, too",
                "draw them only if self.training, in a module of its own, or pass them as an input",
            )


def _equal(one: Any, two: Any) -> bool:
    both_tensors = isinstance(one, Tensor) and isinstance(two, Tensor)
    return both_tensors and one.dtype == two.dtype and torch.equal(one, two)
