// OpenBao's program, whole: server, agent and command line. A module of our own is needed to build it, as a program of
// another module whose go.mod replaces some of what it requires cannot be installed by name. Four modules of OpenBao's that
// the checksum database may not have (go-kms-wrapping/wrappers/{aead,pkcs11,static,transit}) have the checksums of OpenBao's
// own go.sum.
package main

import (
	"os"

	"github.com/openbao/openbao/command"
)

func main() { os.Exit(command.Run(os.Args[1:])) }
