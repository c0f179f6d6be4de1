"""Depth, flow, masks, keypoints and DensePose against closed forms and independent ray casts."""

import numpy as np
import pytest

from unity.data.clips import SOURCES
from unity.data.simulate.body import FACES
from unity.data.simulate.primitives import SPHERE
from unity.data.simulate.raster import first_hits, solids, view_of
from unity.data.simulate.truth import Truth

FRAMES = 5
CASES = [(seed, source) for source in SOURCES for seed in (1, 2)]
PEOPLE = [case for case in CASES if "person" in case[1]]


@pytest.fixture
def seen(filmed):
    """(seed, source, frame) -> world, camera, hits, truth of a frame."""

    def see(seed, source, frame):
        world, cameras = filmed(seed, source, FRAMES)
        hits = first_hits(view_of(cameras[frame]), solids(world, frame), world.vertices[:, frame].copy())
        return world, cameras, hits, Truth(world, cameras).measure(frame)

    return see


def image_rays(camera, points):
    """World directions of unit depth through image points [n, 2]."""
    centre = np.array((camera.width / 2, camera.height / 2))
    local = np.concatenate([(points - centre) / camera.focal, np.ones((len(points), 1))], axis=1)
    return local @ camera.turn


def pixel_centres(camera):
    rows, columns = np.divmod(np.arange(camera.height * camera.width), camera.width)
    return np.stack([columns + 0.5, rows + 0.5], axis=1)


@pytest.fixture
def cast(mujoco_cast, triangle_cast):
    """(world, frame, origin, directions) -> depth and owner (a geom, 1000 + person, or -1), by no code of ours."""

    def first(world, frame, origin, directions):
        geom, depth = mujoco_cast(world, frame, origin, directions)
        owner = geom.astype(int)
        for person, vertices in enumerate(world.vertices[:, frame]):
            near, _ = triangle_cast(origin, directions, vertices, FACES)
            owner = np.where(near < depth, 1000 + person, owner)
            depth = np.minimum(near, depth)
        return depth, owner

    return first


@pytest.mark.parametrize(("seed", "source"), CASES)
def test_depth_of_the_ground_is_the_planes(seed, source, seen):
    _, cameras, hits, truth = seen(seed, source, 2)
    ground = hits.geom == 0
    rays = cameras[2].rays().reshape(*ground.shape, 3)
    depth = -cameras[2].position[2] / rays[ground][:, 2]
    assert ground.sum() > 100
    np.testing.assert_allclose(truth["depth"][ground], depth, rtol=2e-15)


def test_depth_of_balls_is_the_spheres(seen):
    count = 0
    for seed in range(8):
        world, cameras, hits, truth = seen(seed, "general", 2)
        for geom in np.flatnonzero((world.model.geom_type == SPHERE) & (world.instance > 0)):
            mask = hits.geom == geom
            rays = cameras[2].rays().reshape(*mask.shape, 3)[mask]
            offset = cameras[2].position - world.geom_position[2, geom]
            a, b = (rays**2).sum(1), rays @ offset
            c = offset @ offset - world.model.geom_size[geom, 0] ** 2
            np.testing.assert_allclose(truth["depth"][mask], (-b - np.sqrt(b * b - a * c)) / a, rtol=1e-11)
            count += mask.sum()
    assert count > 300


@pytest.mark.parametrize(("seed", "source"), CASES)
def test_masks_and_depth_are_those_of_an_independent_ray_cast(seed, source, seen, cast):
    world, cameras, _, truth = seen(seed, source, 3)
    sample = np.random.default_rng(0).choice(64 * 80, 500, replace=False)
    # Every second sample lies on somebody or something, so that small masks count.
    inside = np.flatnonzero(truth["segmentation"].ravel())
    sample[::2] = inside[np.arange(250) * len(inside) // 250]
    depth, owner = cast(world, 3, cameras[3].position, cameras[3].rays()[sample])
    instance = np.where(owner >= 1000, owner - 999, world.instance[np.clip(owner, 0, world.model.ngeom - 1)])
    np.testing.assert_array_equal(truth["segmentation"].ravel()[sample], np.where(owner < 0, 0, instance))
    np.testing.assert_allclose(truth["depth"].ravel()[sample], depth, rtol=1e-9)


@pytest.mark.parametrize(("seed", "source"), CASES)
def test_depth_projects_back_to_pixel_centres(seed, source, seen):
    _, cameras, _, truth = seen(seed, source, 1)
    depth = truth["depth"].reshape(-1, 1)
    hit = np.isfinite(depth[:, 0])
    points = cameras[1].position + depth[hit] * cameras[1].rays()[hit]
    image = cameras[1].project(points)
    np.testing.assert_allclose(image[:, :2], pixel_centres(cameras[1])[hit], atol=1e-10)
    np.testing.assert_allclose(image[:, 2], depth[hit, 0], rtol=1e-12)


@pytest.mark.parametrize(("seed", "source"), CASES)
def test_flow_lands_on_the_same_surface_and_leads_back(seed, source, seen, cast):
    """A ray cast at the sub-pixel point that flow names in the next frame meets the same surface, or something
    nearer that hides it; the point met, carried back by its body's motion, projects to the pixel's centre."""
    world, cameras, hits, truth = seen(seed, source, 2)
    camera, after = cameras[2], cameras[3]
    centres = pixel_centres(camera)
    landing = centres + truth["flow"].reshape(-1, 2)
    sample = np.random.default_rng(1).choice(len(centres), 400, replace=False)
    moving = np.flatnonzero(truth["segmentation"].ravel())
    sample[::2] = moving[np.arange(200) * len(moving) // 200]
    inside = (landing[sample] > 0).all(1) & (landing[sample] < (80, 64)).all(1)
    sample = sample[inside & np.isfinite(truth["depth"].ravel()[sample])]
    rays = image_rays(after, landing[sample])
    depth, owner = cast(world, 3, after.position, rays)
    mine = np.where(hits.triangle >= 0, 1000 + hits.triangle // len(FACES), hits.geom).ravel()[sample]
    expected = _depth_after(world, camera, after, hits, truth, sample)
    error = depth / expected - 1
    visible = np.abs(error) < 1e-6
    assert visible.mean() > 0.85
    # A ray that grazes an edge can miss its surface by a hair and see what lies behind.
    assert (error[~visible] < 0).mean() > 0.95 if (~visible).any() else True
    assert (_body(world, owner) == _body(world, mine))[visible].mean() > 0.99
    rigid = visible & (mine < 1000) & (owner == mine)
    assert rigid.sum() > 50
    points = after.position + depth[rigid, None] * rays[rigid]
    back = camera.project(_carried(world, mine[rigid], points, 3, 2))
    assert np.abs(back[:, :2] - centres[sample[rigid]]).max() < 1e-3
    assert np.median(np.abs(back[:, :2] - centres[sample[rigid]])) < 1e-9


def _body(world, owner):
    """Owners as bodies: the parts of one thing may share a surface."""
    return np.where(owner >= 1000, owner, world.model.geom_bodyid[np.clip(owner, 0, world.model.ngeom - 1)])


def _carried(world, geoms, points, start, end):
    """Points fixed to geoms, moved from one frame's pose to another's."""
    local = np.einsum("nji,nj->ni", world.geom_turn[start][geoms], points - world.geom_position[start][geoms])
    return np.einsum("nij,nj->ni", world.geom_turn[end][geoms], local) + world.geom_position[end][geoms]


def _depth_after(world, camera, after, hits, truth, sample):
    """Depth in the next frame of what pixels saw, from its geom's motion or its triangle's."""
    points = camera.position + truth["depth"].ravel()[sample, None] * camera.rays()[sample]
    triangle, geom = hits.triangle.ravel()[sample], hits.geom.ravel()[sample]
    moved = _carried(world, np.maximum(geom, 0), points, 2, 3)
    for n in np.flatnonzero(triangle >= 0):
        person, face = divmod(int(triangle[n]), len(FACES))
        now, then = world.vertices[person, 2][FACES[face]], world.vertices[person, 3][FACES[face]]
        share = np.linalg.lstsq(np.vstack([now.T, np.ones(3)]), np.append(points[n], 1.0), rcond=None)[0]
        moved[n] = share @ then
    return after.project(moved)[:, 2]


def test_a_still_scene_through_a_still_camera_has_no_flow(filmed):
    world, cameras = filmed(0, "subject", FRAMES)
    flow = Truth(world, [cameras[0]] * FRAMES).measure(3)["flow"]
    assert np.abs(flow).max() < 2e-2
    still = np.isin(world.instance[np.arange(world.model.ngeom)], 0)
    assert still.any()


def test_sky_moves_as_the_camera_turns_only(filmed):
    for seed in range(20):
        world, cameras = filmed(seed, "subject", FRAMES)
        truth = Truth(world, cameras).measure(0)
        sky = ~np.isfinite(truth["depth"].ravel())
        if sky.sum() > 30:
            break
    far = cameras[0].position + 1e9 * cameras[0].rays()[sky]
    flow = cameras[1].project(far)[:, :2] - pixel_centres(cameras[0])[sky]
    np.testing.assert_allclose(truth["flow"].reshape(-1, 2)[sky], flow, atol=1e-5)
    assert np.abs(flow).max() > 0.1


@pytest.mark.parametrize(("seed", "source"), PEOPLE)
def test_visible_joints_lie_on_their_person_and_hidden_ones_do_not_show(seed, source, seen, cast):
    inside = total = 0
    for frame in range(FRAMES):
        world, cameras, _, truth = seen(seed, source, frame)
        camera = cameras[frame]
        projected = camera.project(world.keypoints[frame])
        np.testing.assert_allclose(truth["skeleton"][..., :2], projected[..., :2])
        visible = truth["skeleton"][..., 2]
        assert set(np.unique(visible)) <= {0, 1}
        for person, rows in enumerate(projected[:, :14]):
            depth, owner = cast(world, frame, camera.position, image_rays(camera, rows[:, :2]))
            free = depth > rows[:, 2] - 0.05
            inside += (owner == 1000 + person)[free].sum()
            total += free.sum()
            # What is far in front of a joint hides it, whosever it is.
            assert visible[person, :14][depth < rows[:, 2] - 0.6].sum() == 0
    assert total > 20 and inside / total > 0.95


@pytest.mark.parametrize(("seed", "source"), PEOPLE)
def test_densepose_covers_people_and_sticks_to_the_skin(seed, source, seen):
    _, _, _, now = seen(seed, source, 1)
    world, cameras, _, then = seen(seed, source, 2)
    people = (now["segmentation"] > 0) & (now["segmentation"] <= len(world.scene.people))
    part, u, v = np.moveaxis(now["densepose"], -1, 0)
    np.testing.assert_array_equal(part > 0, people)
    assert part.max() <= 24 and u.min() >= 0 and u.max() <= 1 and v.min() >= 0 and v.max() <= 1
    assert (now["densepose"][~people] == 0).all() and len(np.unique(part)) > 8
    # Along the flow the same skin keeps its part and V, up to where in its pixel the next frame sampled it.
    landing = np.floor(pixel_centres(cameras[1]) + now["flow"].reshape(-1, 2)).astype(int)
    inside = people.ravel() & (landing >= 0).all(1) & (landing < (80, 64)).all(1)
    after = then["densepose"][landing[inside, 1], landing[inside, 0]]
    before = now["densepose"].reshape(-1, 3)[inside]
    met = after[:, 0] > 0
    same = before[met, 0] == after[met, 0]
    assert met.mean() > 0.8 and same.mean() > 0.75
    assert np.median(np.abs(before[met][same, 2] - after[met][same, 2])) < 0.06
