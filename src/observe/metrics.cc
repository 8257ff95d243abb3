#include "observe/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <limits>

namespace wayleave::observe {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Workers = std::span<const WorkerMetrics* const>;

template <typename Get>
double total(Workers workers, Get get) {
  uint64_t sum = 0;  // wraps on purpose: a gauge's shards may hold "minus one"
  for (const WorkerMetrics* worker : workers) sum += get(*worker).get();
  return static_cast<double>(sum);
}

ClientMetric number(MetricType type, double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

MetricFamily family(std::string name, std::string help, MetricType type, std::vector<ClientMetric> metrics) {
  return {std::move(name), std::move(help), type, std::move(metrics)};
}

MetricFamily flowsEnded(Workers workers) {
  MetricFamily result = family("wayleave_flows_ended_total", "Flows by what was done with them and how they ended",
                               MetricType::Counter, {});
  for (size_t c = 0; c < kCarriages; ++c)
    for (size_t r = 0; r < kReasons; ++r)
      if (const double value = total(workers, [&](const auto& w) -> const Counter& { return w.flowsEnded[c][r]; }); value > 0)
        result.metric.push_back(number(MetricType::Counter, value,
                                       {{"decision", std::string(text(static_cast<Carriage>(c)))},
                                        {"outcome", std::string(text(static_cast<Reason>(r)))}}));
  return result;
}

MetricFamily bytes(Workers workers) {
  MetricFamily result = family("wayleave_flow_bytes_total", "Payload bytes relayed; up is from the application",
                               MetricType::Counter, {});
  for (const Carriage carriage : {Carriage::Tunnel, Carriage::Direct}) {
    const auto c = static_cast<size_t>(carriage);
    const std::string decision(text(carriage));
    result.metric.push_back(number(MetricType::Counter, total(workers, [&](const auto& w) -> const Counter& { return w.bytesUp[c]; }),
                                   {{"decision", decision}, {"direction", "up"}}));
    result.metric.push_back(number(MetricType::Counter, total(workers, [&](const auto& w) -> const Counter& { return w.bytesDown[c]; }),
                                   {{"decision", decision}, {"direction", "down"}}));
  }
  return result;
}

MetricFamily tunnelOpen(Workers workers) {
  ClientMetric metric;
  uint64_t cumulative = 0, nanoseconds = 0;
  for (size_t i = 0; i <= DurationHistogram::kBounds.size(); ++i) {
    for (const WorkerMetrics* worker : workers) cumulative += worker->tunnelOpen.bucket(i);
    const bool last = i == DurationHistogram::kBounds.size();
    metric.histogram.bucket.push_back({cumulative, last ? std::numeric_limits<double>::infinity() : DurationHistogram::kBounds[i]});
  }
  for (const WorkerMetrics* worker : workers) nanoseconds += worker->tunnelOpen.sumNanoseconds();
  metric.histogram.sample_count = cumulative;
  metric.histogram.sample_sum = static_cast<double>(nanoseconds) / 1e9;
  return family("wayleave_tunnel_open_seconds", "From the decision to the gateway's 2xx", MetricType::Histogram, {metric});
}

}  // namespace

void DurationHistogram::observe(std::chrono::nanoseconds duration) {
  const double seconds = std::chrono::duration<double>(duration).count();
  const auto* bound = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  buckets_[static_cast<size_t>(bound - kBounds.begin())].add();
  sum_.add(static_cast<uint64_t>(duration.count()));
}

std::string exposition(Workers workers, const std::vector<Gauge>& others) {
  std::vector<MetricFamily> families;
  const auto simple = [&](std::string name, std::string help, MetricType type, auto get) {
    families.push_back(family(std::move(name), std::move(help), type, {number(type, total(workers, get))}));
  };
  simple("wayleave_flows_opened_total", "Flows captured", MetricType::Counter, [](const auto& w) -> const Counter& { return w.flowsOpened; });
  simple("wayleave_flows_active", "Flows that live", MetricType::Gauge, [](const auto& w) -> const Counter& { return w.flowsActive; });
  families.push_back(flowsEnded(workers));
  families.push_back(bytes(workers));
  families.push_back(tunnelOpen(workers));
  simple("wayleave_fallbacks_total", "Flows sent direct because the tunnel failed", MetricType::Counter,
         [](const auto& w) -> const Counter& { return w.fallbacks; });
  simple("wayleave_hosts_found_total", "Host names found in first bytes", MetricType::Counter,
         [](const auto& w) -> const Counter& { return w.hostsFound; });
  simple("wayleave_hosts_missing_total", "First bytes without a host name", MetricType::Counter,
         [](const auto& w) -> const Counter& { return w.hostsMissing; });
  simple("wayleave_accept_starved_total", "Times accepting paused for want of descriptors or memory", MetricType::Counter,
         [](const auto& w) -> const Counter& { return w.acceptStarved; });
  for (const Gauge& other : others) {
    const MetricType type = other.counter ? MetricType::Counter : MetricType::Gauge;
    families.push_back(family(other.name, other.help, type, {number(type, other.value)}));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace wayleave::observe
