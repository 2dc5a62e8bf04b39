"""What Prometheus knows about the cluster."""

from cluster import NOTICE_SECONDS, Cluster
from report import expect_equal, expect_within


def run(cluster: Cluster) -> None:
    check = cluster.report.check
    with check("metrics: Prometheus scrapes both replicas"):
        await_up(cluster, {replica.metrics_address: 1.0 for replica in cluster.replicas})
    with check("metrics: both replicas count the requests that Envoy sent them"):
        counted(cluster)
    with check("metrics: Prometheus scrapes Envoy, which sees both replicas as healthy"):
        expression = 'envoy_cluster_membership_healthy{envoy_cluster_name="skipstone"}'
        wanted = {cluster.envoy.metrics_address: float(len(cluster.replicas))}
        expect_within(NOTICE_SECONDS, lambda: cluster.prometheus.query(expression) == wanted,
                      lambda: f"{expression} is {cluster.prometheus.query(expression)}, wanted {wanted}")


def await_up(cluster: Cluster, wanted: dict[str, float]) -> None:
    """Waits until the scrapes of the replicas go as wanted."""
    expression = 'up{job="skipstone"}'
    expect_within(NOTICE_SECONDS, lambda: cluster.prometheus.query(expression) == wanted,
                  lambda: f"{expression} is {cluster.prometheus.query(expression)}, wanted {wanted}")


def counted(cluster: Cluster) -> None:
    expression = "sum by (instance) (skipstone_requests_total)"
    places = [entry["replica"] for entry in cluster.envoy.access_log().values()]
    wanted = {replica.metrics_address: float(places.count(replica.address)) for replica in cluster.replicas}
    expect_equal(all(wanted.values()), True, f"whether each replica got requests; they got {wanted}")
    expect_within(NOTICE_SECONDS, lambda: cluster.prometheus.query(expression) == wanted,
                  lambda: f"{expression} is {cluster.prometheus.query(expression)}, wanted {wanted}")
    cluster.report.note(", ".join(f"{replica.name}: {wanted[replica.metrics_address]:.0f} requests"
                                  for replica in cluster.replicas))
