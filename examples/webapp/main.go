// Command webapp is a web application that signs people in with OpenID Connect and knows
// nothing of QR codes. `qrgrant dev` starts it too; by itself it runs beside any provider:
//
//	go run ./examples/webapp --issuer https://id.example --client-id webapp   # and $CLIENT_SECRET
package main

import (
	"flag"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/qrgrant/qrgrant/examples/webapp/relyingparty"
)

func main() {
	app := relyingparty.App{ClientSecret: os.Getenv("CLIENT_SECRET")}
	addr := flag.String("addr", "127.0.0.1:8090", "`HOST:PORT` to listen on")
	flag.StringVar(&app.Issuer, "issuer", "http://127.0.0.1:8080", "`URL` of the provider")
	flag.StringVar(&app.ClientID, "client-id", "webapp", "`ID` of the client")
	flag.StringVar(&app.URL, "url", "http://127.0.0.1:8090", "`URL` of this application; /callback below it must be registered")
	flag.Parse()
	http.DefaultClient.Timeout = 10 * time.Second // the application's requests to the provider
	log.Println("webapp serves", app.URL)
	server := &http.Server{Addr: *addr, Handler: app.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second}
	log.Fatalln("webapp:", server.ListenAndServe())
}
