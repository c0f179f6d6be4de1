"""Plan a training: what of it fits on which GPUs, what they send each other, and how long it takes."""

from unity.command import end


def main() -> None:
    # within what is told in a sentence when it is interrupted
    import tyro

    from unity.files import write_json
    from unity.train.planner import show
    from unity.train.planner.options import Options, jobs
    from unity.train.planner.plan import best, leanest, smallest, undivided

    options = tyro.cli(Options, prog="python -m unity.train.planner", description=__doc__)
    found = jobs(options)
    title, plans = show.title(options, found), {name: best(job, options.limits) for name, job in found.items()}
    if len(found) > 1:
        print(title, *show.ladder(found, plans, options.limits), sep="\n")
        drawn = {name: plan for name, plan in plans.items() if plan}
    else:
        ((name, job),) = found.items()
        plan = plans[name] or leanest(job, options.limits)
        if plan is None:
            raise ValueError(undivided(job, options.limits))
        plans, drawn = {name: plan}, show.policies(plan)
        print(title, *show.lines(name, plan, smallest(job, options.limits)), sep="\n")
    if options.json is not None:
        write_json(options.json, {name: show.plain(plan) for name, plan in plans.items()})
    if options.picture is not None and drawn:
        show.draw(drawn, title, options.picture)


if __name__ == "__main__":
    end("planner", main)
