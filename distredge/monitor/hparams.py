"""What TensorBoard's page "hparams" shows: what a run was told, beside what came of it.

`tensorboard.plugins.hparams.summary` makes the same messages but imports TensorFlow, and torch's `add_hparams` puts
them into a sub-run of their own, apart from the run's curves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from distredge.writing import as_text

Parameter: TypeAlias = bool | float | str
"""An `int` is shown as a float."""


def experiment(parameters: Mapping[str, Parameter], metrics: Iterable[str]) -> Any:
    """Returns the `Summary.Value` that names the columns; TensorBoard takes the first of all runs that it finds.

    Args:
        parameters: name -> any value of its kind.
        metrics: tags of scalars in a run's own folder.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    content = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=kinds.get(type(value), api_pb2.DATA_TYPE_FLOAT64))
            for name, value in parameters.items()
        ],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )
    return _value(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=content))


def session_start(parameters: Mapping[str, Parameter], start_s: float) -> Any:
    """Returns the `Summary.Value` with which a run says what it was told.

    Args:
        parameters: name -> value.
        start_s: seconds since 1970.
    """
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    content = plugin_data_pb2.SessionStartInfo(start_time_secs=start_s)
    for parameter, value in parameters.items():
        slot = content.hparams[parameter]
        if isinstance(value, bool):
            slot.bool_value = value
        elif isinstance(value, str):
            # Of a path, perhaps, whose bytes are no text.
            slot.string_value = as_text(value)
        else:
            slot.number_value = value
    return _value(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=content))


def session_end(done: bool, end_s: float) -> Any:
    """Returns the `Summary.Value` with which a run says that it has ended.

    Args:
        done: whether no error ended it.
        end_s: seconds since 1970.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.STATUS_SUCCESS if done else api_pb2.STATUS_FAILURE
    content = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=end_s)
    return _value(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=content))


def _value(tag: str, content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    # The plugin reads what stands in the metadata; a summary needs a tensor all the same.
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
