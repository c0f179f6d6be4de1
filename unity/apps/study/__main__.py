"""A blind study of what people prefer: `python -m unity.apps.study --models a b`, then send raters to the address.

--models a b c        a folder of videos for each model: a study of them in --out, served to raters
(none)                goes on with the study in --out
--report              votes.csv, study.json and study.html: ranks with intervals, win rates, raters' agreement
--host 0.0.0.0        raters come from other machines, with the token that is in the address
"""

from unity.command import end


def main() -> None:
    # seconds of imports, within what is told in a sentence when it is interrupted
    import tyro

    from unity.apps.study.options import Options, start
    from unity.extras import require

    options = tyro.cli(Options, prog="python -m unity.apps.study", description=__doc__)
    if not options.report:
        require("app")
    start(options)


if __name__ == "__main__":
    end("study", main)
