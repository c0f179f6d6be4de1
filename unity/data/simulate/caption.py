"""A scene in English: one sentence of who does what where, one of the camera."""

from unity.data.simulate.motion import ACTS
from unity.data.simulate.scene import Person, Scene, Thing


def caption(scene: Scene) -> str:
    """What a viewer would write under the clip."""
    sentence = _SENTENCES[scene.source](scene) + (f" {scene.sky.phrase}" if scene.sky.phrase else "")
    return f"{sentence[0].upper()}{sentence[1:]}. {scene.shot.move.phrase}"


def article(noun: str) -> str:
    """The noun with `a` or `an`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def listing(parts: list[str]) -> str:
    """`x`, `x and y`, `x, y and z`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _person(person: Person) -> str:
    top, bottom = person.clothes.split("|")
    return f"{article(person.who)} in {article(top)} and {bottom} is {ACTS[person.style.act].phrase}"


def _happens(thing: Thing) -> str:
    return f"{article(thing.name)} {thing.event.phrase}"


def _with_people(scene: Scene) -> str:
    people = f"{listing([_person(person) for person in scene.people])} {scene.place.phrase}"
    return f"{people} while {listing([_happens(thing) for thing in scene.things])}" if scene.things else people


def _with_objects(scene: Scene) -> str:
    return f"{listing([_happens(thing) for thing in scene.things])} {scene.place.phrase}"


def _with_subject(scene: Scene) -> str:
    return f"{article(scene.things[0].name)} stands {scene.place.phrase}"


_SENTENCES = {
    "single_person": _with_people,
    "two_persons": _with_people,
    "general": _with_objects,
    "subject": _with_subject,
}
