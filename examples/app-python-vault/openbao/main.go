// OpenBao's program, whole: server, agent and command line. A module of our own is needed to build it, as a program of
// another module whose go.mod replaces some of what it requires cannot be installed by name. The checksums in go.sum are
// those of OpenBao's own.
package main

import (
	"os"

	"github.com/openbao/openbao/command"
)

func main() { os.Exit(command.Run(os.Args[1:])) }
