"""Plan a training: what of it fits on which GPUs, what they send each other, and how long it takes."""

from unity.command import end


def main() -> None:
    # within what is told in a sentence when it is interrupted
    import tyro

    from unity.files import write_json
    from unity.train.planner import show
    from unity.train.planner.options import Options, jobs
    from unity.train.planner.plan import best, leanest, smallest

    options = tyro.cli(Options, prog="python -m unity.train.planner", description=__doc__)
    found = jobs(options)
    first = next(iter(found.values()))
    title = show.title(options.model, options.gpu, first)
    plans = {name: best(job, options.limits) for name, job in found.items()}
    if options.size is None:
        print(title, *show.ladder(plans), sep="\n")
        drawn = {name: plan for name, plan in plans.items() if plan}
    else:
        (name, job), (plan,) = next(iter(found.items())), plans.values()
        plan = plan or leanest(job, options.limits)
        if plan is None:
            raise ValueError(
                f"{options.batch_size} samples do not divide over {options.gpus} GPUs, of which a number that "
                f"divides {job.config.num_heads} heads and {job.sample.tokens:,} tokens may share a sample; give "
                f"another --batch-size, --gpus or --sequence-parallel"
            )
        plans, drawn = {name: plan}, show.policies(plan)
        print(title, *show.lines(name, plan, smallest(job, options.limits)), sep="\n")
    if options.json is not None:
        write_json(options.json, {name: show.plain(plan) for name, plan in plans.items()})
    if options.picture is not None and drawn:
        show.draw(drawn, title, options.picture)


if __name__ == "__main__":
    end("planner", main)
