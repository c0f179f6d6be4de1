"""The tasks, one row each (paper, section 3.1); a task's id is its place here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked of the model: a stream that is not noisy is given."""

    name: str
    # of the streams rgb, aux
    noisy: tuple[bool, bool]
    # whether the words about the scene are read; C_m, the words that name the modality, always are
    captioned: bool
    # probability in training, unless the configuration says otherwise
    share: float
    # what is asked for, for people
    words: str


# Probabilities rise with the ease of a task, as the paper asks: control < estimate < joint.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="joint", noisy=(True, True), captioned=True, share=0.5, words="a video and its view"),
        Task(name="control", noisy=(True, False), captioned=True, share=0.2, words="a video that follows a view"),
        Task(name="estimate", noisy=(False, True), captioned=False, share=0.3, words="the view of a video"),
    )
}
