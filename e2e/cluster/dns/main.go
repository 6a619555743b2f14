// CoreDNS with the plugins that the names of Services need, and no others: its
// own main links clients of every cloud. A binary beside the cluster's, since
// both of them claim flags of the whole process.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	// The order in which a query passes them.
	dnsserver.Directives = []string{"ready", "errors", "log", "kubernetes"}
	coremain.Run()
}
