-- What wrk sends in the API's figures:   wrk -t2 -c16 -d8s -s load.lua https://HOST:PORT -- MODE TOKEN NAMESPACE
-- create: POST a ConfigMap of about 300 bytes under a fresh name.   get: the ConfigMap "one".   list: the whole namespace.
-- patch: a strategic merge patch of the image of one of 16 Deployments.   apply: one of them whole, applied by the server.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("id", threads)
end

function init(args)
  mode, token, space = args[1], args[2], args[3] or "default"
  sent = 0
  run = tostring(os.time())
  local kinds = { patch = "application/strategic-merge-patch+json", apply = "application/apply-patch+yaml" }
  headers = {
    ["Authorization"] = "Bearer " .. token,
    ["Content-Type"] = kinds[mode] or "application/json",
    ["Accept"] = "application/json",
  }
  maps = "/api/v1/namespaces/" .. space .. "/configmaps"
  deployments = "/apis/apps/v1/namespaces/" .. space .. "/deployments/"
end

local function config_map(name)
  return '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"' .. name .. '","labels":{"app":"load","tier":"' ..
    (sent % 7) .. '"}},"data":{"a":"' .. string.rep("x", 100) .. '","b":"1","c":"2"}}'
end

local function image()
  return '{"name":"c","image":"busybox:' .. id .. "-" .. sent .. '"}'
end

local function deployment(name)
  return '{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"' .. name .. '","labels":{"app":"load"}},"spec":{"replicas":2,' ..
    '"selector":{"matchLabels":{"app":"load"}},"template":{"metadata":{"labels":{"app":"load"}},"spec":{"containers":[' .. image() .. ']}}}}'
end

function request()
  sent = sent + 1
  local name = "d" .. (sent * 2 + id) % 16
  if mode == "create" then
    return wrk.format("POST", maps, headers, config_map("l" .. run .. "-" .. id .. "-" .. sent))
  elseif mode == "get" then
    return wrk.format("GET", maps .. "/one", headers)
  elseif mode == "list" then
    return wrk.format("GET", maps, headers)
  elseif mode == "patch" then
    return wrk.format("PATCH", deployments .. name, headers, '{"spec":{"template":{"spec":{"containers":[' .. image() .. "]}}}}")
  end
  return wrk.format("PATCH", deployments .. name .. "?fieldManager=load&force=true", headers, deployment(name))
end

local refused = 0
function response(status)
  if status >= 300 then
    refused = refused + 1
    if refused == 1 then print("first refusal: " .. status) end
  end
end
