-- For wrk: walks through requests that were signed beforehand, each a new event, none sent twice.
local requests, at = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local length = tonumber(args[2])
  while true do
    local request = file:read(length)
    if not request then break end
    requests[#requests + 1] = request
  end
  file:close()
end

function request()
  at = at + 1
  -- Past the end the last one is sent again, and the count of stored events betrays it.
  return requests[at] or requests[#requests]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %.3f, "p99": %.3f}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
