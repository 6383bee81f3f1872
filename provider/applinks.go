package provider

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
)

// The addresses where phones look for the apps that may open links of a host: Apple and Android
// look at the root, whatever path the issuer has.
const (
	pathAppleApps   = "/.well-known/apple-app-site-association"
	pathAndroidApps = "/.well-known/assetlinks.json"
)

// AppLinks are the apps that open in place of /Q when a phone's own camera scans a QR code
// (protocol §2). None means that the files, by which phones ask, are not there.
type AppLinks struct {
	// Apple are app ids: the team's identifier, a dot, the bundle's identifier.
	Apple   []string
	Android []AndroidApp
}

// AndroidApp is an Android app and the certificates it may be signed with.
type AndroidApp struct {
	Package string
	// SHA256 are the certificates' fingerprints as keytool prints them: AA:BB:…, 32 bytes.
	SHA256 []string
}

// CheckAppleApp returns an error when id is not the id of an Apple app, such as
// "ABCDE12345.com.example.app".
func CheckAppleApp(id string) error {
	if !regexp.MustCompile(`^[A-Z0-9]{10}\.[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$`).MatchString(id) || len(id) > 255 {
		return errors.New("provider: the id of an Apple app is its team, a dot and its bundle, such as ABCDE12345.com.example.app")
	}
	return nil
}

// Check returns an error when the package is not named as Android names one, or a fingerprint is
// missing or malformed: the phone would not take the file, and not say why.
func (a AndroidApp) Check() error {
	if !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+$`).MatchString(a.Package) || len(a.Package) > 255 {
		return errors.New("provider: the package of an Android app is a name such as com.example.app")
	}
	if len(a.SHA256) == 0 {
		return errors.New("provider: an Android app needs the fingerprint of its certificate")
	}
	for _, fingerprint := range a.SHA256 {
		if !regexp.MustCompile(`^[0-9A-F]{2}(:[0-9A-F]{2}){31}$`).MatchString(fingerprint) {
			return errors.New("provider: the fingerprint of a certificate is 32 bytes in upper-case hexadecimal with colons between")
		}
	}
	return nil
}

func (l AppLinks) validate() []error {
	var faults []error
	for i, id := range l.Apple {
		if err := CheckAppleApp(id); err != nil {
			faults = append(faults, fmt.Errorf("provider: Config.AppLinks.Apple[%d]: %w", i, err))
		}
	}
	for i, app := range l.Android {
		if err := app.Check(); err != nil {
			faults = append(faults, fmt.Errorf("provider: Config.AppLinks.Android[%d]: %w", i, err))
		}
	}
	return faults
}

// appRoutes are the files of the apps there are; phones follow no redirect to them.
func (p *Provider) appRoutes() []route {
	var routes []route
	if len(p.config.AppLinks.Apple) > 0 {
		routes = append(routes, route{routeAppleApps, "GET HEAD", pathAppleApps, p.appleApps})
	}
	if len(p.config.AppLinks.Android) > 0 {
		routes = append(routes, route{routeAndroidApps, "GET HEAD", pathAndroidApps, p.androidApps})
	}
	return routes
}

// appleApps names the one path that the apps take over. /Q/claim is not it: who is there is on
// the way without an app.
func (p *Provider) appleApps(w http.ResponseWriter, _ *http.Request) {
	type component struct {
		Path string `json:"/"`
	}
	type detail struct {
		AppIDs     []string    `json:"appIDs"`
		Components []component `json:"components"`
	}
	var file struct {
		AppLinks struct {
			Details []detail `json:"details"`
		} `json:"applinks"`
	}
	file.AppLinks.Details = []detail{{p.config.AppLinks.Apple, []component{{p.pathOf(routeQ)}}}}
	writeDocument(w, file)
}

func (p *Provider) androidApps(w http.ResponseWriter, _ *http.Request) {
	type target struct {
		Namespace string   `json:"namespace"`
		Package   string   `json:"package_name"`
		SHA256    []string `json:"sha256_cert_fingerprints"`
	}
	type statement struct {
		Relation []string `json:"relation"`
		Target   target   `json:"target"`
	}
	statements := make([]statement, len(p.config.AppLinks.Android))
	for i, app := range p.config.AppLinks.Android {
		statements[i] = statement{[]string{"delegate_permission/common.handle_all_urls"}, target{"android_app", app.Package, app.SHA256}}
	}
	writeDocument(w, statements)
}
