"""Cut a model in OpenVINO in two: what depends on some inputs alone, to be computed once, and the rest."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Names of the second part's inputs that the first part's outputs are given to, by number.
CUT = "cut_{}"


@dataclass(frozen=True)
class SplitModel:
    """A model in two parts, both of type openvino.Model.

    Attributes:
        first: what depends on the given inputs and on no other; its outputs are the second part's inputs `cuts`.
        second: the rest, with the outputs of the whole model.
        cuts: names of the second part's new inputs, in the order of the first part's outputs.
    """

    first: Any
    second: Any
    cuts: tuple[str, ...]


def split(model: Any, names: Iterable[str]) -> SplitModel:
    """Cut a model where values that depend on some inputs alone go to operators that need others too.

    Args:
        model: openvino.Model; its parts take its operators over, and it is of no use afterwards.
        names: of the inputs that the first part takes.
    """
    import openvino
    from openvino import opset13 as operators

    given = frozenset(names)
    needs: dict[str, frozenset[str]] = {}  # of which inputs an operator's outputs depend, by the operator's own name
    ordered = model.get_ordered_ops()
    for operator in ordered:
        if operator.get_type_name() == "Parameter":
            needs[operator.get_name()] = frozenset([operator.output(0).get_any_name()])
        else:
            sources = [entry.get_source_output().get_node().get_name() for entry in operator.inputs()]
            needs[operator.get_name()] = frozenset().union(*(needs[source] for source in sources))

    def is_first(operator: Any) -> bool:
        return bool(needs[operator.get_name()]) and needs[operator.get_name()] <= given

    crossings = []
    for output in (output for operator in ordered if is_first(operator) for output in operator.outputs()):
        users = [entry for entry in output.get_target_inputs() if not is_first(entry.get_node())]
        if users:
            crossings.append((output, users))
    parameters, results = model.get_parameters(), model.get_results()
    of_first = [parameter for parameter in parameters if parameter.output(0).get_any_name() in given]
    of_second = [parameter for parameter in parameters if parameter.output(0).get_any_name() not in given]
    first = openvino.Model([operators.result(output) for output, _ in crossings], of_first, "first")
    cuts = tuple(CUT.format(number) for number in range(len(crossings)))
    for name, (output, users) in zip(cuts, crossings, strict=True):
        cut = operators.parameter(output.get_partial_shape(), output.get_element_type())
        cut.output(0).set_names({name})
        for entry in users:
            entry.replace_source_output(cut.output(0))
        of_second.append(cut)
    return SplitModel(first, openvino.Model(results, of_second, "second"), cuts)
