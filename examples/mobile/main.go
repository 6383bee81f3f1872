// Command mobile is the phone: an installable web application that scans the QR code on another
// screen, shows who asks, and approves or denies. It needs a public client that may approve:
//
//	go run ./examples/mobile --issuer https://id.example --url https://app.example --tls-cert cert.pem --tls-key key.pem
//
// A phone lends its camera to https pages only; on this machine http and a loopback address do.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/qrgrant/qrgrant/examples/mobile/phoneapp"
)

func main() {
	app := &phoneapp.App{}
	addr := flag.String("addr", "127.0.0.1:8091", "`HOST:PORT` to listen on")
	flag.StringVar(&app.Issuer, "issuer", "http://127.0.0.1:8080", "`URL` of the provider, spelt as it spells itself")
	flag.StringVar(&app.ClientID, "client-id", "mobile", "`ID` of the client; it must be public and an approver")
	flag.StringVar(&app.URL, "url", "http://127.0.0.1:8091", "`URL` of this application, without a path; / below it must be registered")
	cert := flag.String("tls-cert", "", "`FILE` with the certificate; empty serves http")
	key := flag.String("tls-key", "", "`FILE` with the key of the certificate")
	flag.Parse()
	handler, err := app.Handler()
	if err != nil {
		log.Fatalln("mobile:", err)
	}
	server := &http.Server{
		Addr: *addr, Handler: handler, MaxHeaderBytes: 32 << 10,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute,
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		done <- server.Shutdown(grace)
	}()
	log.Println("mobile serves", app.URL)
	serve := server.ListenAndServe
	if *cert != "" || *key != "" {
		serve = func() error { return server.ListenAndServeTLS(*cert, *key) }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		stop()
		log.Fatalln("mobile:", err)
	}
	if err := <-done; err != nil {
		log.Println("mobile:", err)
	}
}
