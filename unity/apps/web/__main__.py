"""A page to use the model: `python -m unity.apps.web`, then open the address that it prints.

--run runs/stage1     also a page about a run of training, live
--data data/sim       also a page to look through a dataset
--host 0.0.0.0        for other machines, too; they need the token that is in the address
"""

from unity.command import end


def main() -> None:
    # seconds of imports, within what is told in a sentence when it is interrupted
    import tyro

    from unity.apps.web.options import Options
    from unity.extras import require

    options = tyro.cli(Options, prog="python -m unity.apps.web", description=__doc__)
    require("app")
    from unity.apps.serving import serve
    from unity.apps.web.serve import application

    serve(application, options)


if __name__ == "__main__":
    end("web", main)
