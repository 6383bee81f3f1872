package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/qrgrant/qrgrant/provider"
)

func hashPasswordVerb() verb {
	return verb{
		name:    "hash-password",
		summary: "reads a password from standard input and prints the hash for the configuration",
		prepare: func(*flag.FlagSet) action {
			return func(_ context.Context, e env) error {
				line, _ := bufio.NewReader(e.Stdin).ReadString('\n')
				password := strings.TrimRight(line, "\r\n")
				if password == "" {
					return usagef("no password on standard input; try: qrgrant hash-password < FILE")
				}
				hash, err := provider.HashPassword(password)
				if err != nil {
					return err
				}
				fmt.Fprintln(e.Stdout, hash)
				return nil
			}
		},
	}
}
