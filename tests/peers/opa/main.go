// Command mesh-opa is Open Policy Agent with its Envoy plugin, both from their Go modules: the policy server of stories.
//
//	mesh-opa run --server --addr 127.0.0.1:0 --skip-version-check \
//	  --set plugins.envoy_ext_authz_grpc.addr=127.0.0.1:9191 \
//	  --set plugins.envoy_ext_authz_grpc.path=mesh/decision policy.rego
package main

import (
	"os"

	"github.com/open-policy-agent/opa-envoy-plugin/plugin"
	"github.com/open-policy-agent/opa/cmd"
	"github.com/open-policy-agent/opa/v1/runtime"
)

func main() {
	runtime.RegisterPlugin(plugin.PluginName, plugin.Factory{})
	if cmd.RootCommand.Execute() != nil {
		os.Exit(1)
	}
}
