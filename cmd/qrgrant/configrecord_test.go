package main_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const recordSecret = "0123456789abcdef0123456789abcdef"

// The two clients have every key that there is but those that exclude another one.
const recordFile = `
fetch_networks: [10.2.0.0/16]
dpop_nonce: optional
registration:
  initial_access_tokens_sha256: [INITIAL]
  max_clients: 7
client_metadata: true
implicit: true
hybrid: true
request_objects: true
request_uris: true
pairwise: true
limits: {pushes_per_minute: 9, client_pushes_per_minute: 900}
clients:
  - id: keys
    name: Keys
    redirect_uris: [https://App.example/callback]
    grant_types: [authorization_code, implicit, refresh_token, qr_code]
    scopes: [openid, "qr:approve"]
    pkce: optional
    id_token_alg: EdDSA
    first_party: true
    approver: true
    shared_audiences: [https://api.example]
    disabled: true
    post_logout_redirect_uris: [https://app.example/bye]
    backchannel_logout_uri: https://app.example/logout
    backchannel_logout_session_required: true
    logo_uri: https://app.example/logo.png
    client_uri: https://app.example/
    policy_uri: https://app.example/privacy
    tos_uri: https://app.example/terms
    qr: {enabled: true, allowed_scopes: [openid], lifetime: 3m, user_code: type, offline_access: true}
    auth_method: private_key_jwt
    auth_alg: ES256
    assertion_audience: endpoint
    jwks: {keys: [{kty: EC, crv: P-256, x: "W4Fijw0tBB1Wp0BGB2c2GudgeCSXdmRiZjNaWsY9faQ", y: "mYAeug12wOhD1Maj9DXlv9xNoywSIjgrro9qyhif5l0"}]}
    require_par: true
    access_token_format: jwt
    resources: [https://api.example]
    serves: [https://own.example]
    userinfo_alg: RS256
    request_object_alg: PS256
    request_uris: ["https://app.example/request.jwt#hash"]
    require_request_object: true
    response_types: [token id_token code, id_token, code]
    default_max_age: 10m
    default_acr_values: [two]
    application_type: native
    subject_type: pairwise
    initiate_login_uri: https://app.example/begin
    contacts: [ops@app.example]
  - id: secret
    secret_env: WEB_SECRET
    redirect_uris: [https://one.example/callback, https://two.example/callback]
    auth_method: client_secret_post
    jwks_uri: https://app.example/jwks.json
    require_dpop: true
    access_token_format: opaque
    subject_type: pairwise
    sector_identifier_uri: https://Sector.example/sector.json
  - id: bare
    secret_sha256: [SECRET]
    redirect_uris: [https://app.example/callback]
    subject_type: public
`

func TestWhatAConfigurationMakes(t *testing.T) {
	t.Parallel()
	secret, initial := sha256.Sum256([]byte(recordSecret)), sha256.Sum256([]byte("initial"))
	text := strings.NewReplacer("SECRET", hex.EncodeToString(secret[:]), "INITIAL", hex.EncodeToString(initial[:]), "WEB_SECRET", "WEB_SECRET").Replace(recordFile)
	name := filepath.Join(t.TempDir(), "x.yaml")
	write(t, name, []byte(text))
	clients, made, err := qrgrant.Configured(name, func(string) string { return recordSecret })
	if err != nil {
		t.Fatal(err)
	}
	age := int64(600)
	want := []*storage.Client{
		{
			ID: "keys", Name: "Keys", RedirectURIs: []string{"https://App.example/callback"},
			GrantTypes: []string{"authorization_code", "implicit", "refresh_token", qr.GrantType},
			Scopes:     []string{"openid", "qr:approve"}, PKCEOptional: true, IDTokenAlg: "EdDSA", FirstParty: true, Approver: true,
			SharedAudiences: []string{"https://api.example"}, Disabled: true, PostLogoutRedirectURIs: []string{"https://app.example/bye"},
			BackchannelLogoutURI: "https://app.example/logout", BackchannelLogoutSessionRequired: true,
			LogoURI: "https://app.example/logo.png", ClientURI: "https://app.example/", PolicyURI: "https://app.example/privacy", TermsURI: "https://app.example/terms",
			QR:         storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid"}, Lifetime: 3 * time.Minute, TypeUserCode: true, OfflineAccess: true},
			AuthMethod: storage.AuthPrivateKeyJWT, AuthAlg: "ES256", AssertionAudience: storage.AudienceEndpoint,
			JWKS:       []byte(`{"keys":[{"crv":"P-256","kty":"EC","x":"W4Fijw0tBB1Wp0BGB2c2GudgeCSXdmRiZjNaWsY9faQ","y":"mYAeug12wOhD1Maj9DXlv9xNoywSIjgrro9qyhif5l0"}]}`),
			RequirePAR: true, JWTAccessTokens: true, Resources: []string{"https://api.example"}, Serves: []string{"https://own.example"},
			UserinfoAlg: "RS256", RequestObjectAlg: "PS256", RequestURIs: []string{"https://app.example/request.jwt#hash"}, RequireRequestObject: true,
			ResponseTypes: []string{"code id_token token", "id_token", "code"}, DefaultMaxAge: &age, DefaultACRValues: []string{"two"},
			ApplicationType: "native", Pairwise: true, Sector: "app.example",
			InitiateLoginURI: "https://app.example/begin", Contacts: []string{"ops@app.example"},
		},
		{
			ID: "secret", SecretHashes: [][32]byte{secret}, RedirectURIs: []string{"https://one.example/callback", "https://two.example/callback"},
			AuthMethod: "client_secret_post", JWKSURI: "https://app.example/jwks.json", RequireDPoP: true,
			Pairwise: true, Sector: "sector.example", SectorIdentifierURI: "https://Sector.example/sector.json",
		},
		{ID: "bare", SecretHashes: [][32]byte{secret}, RedirectURIs: []string{"https://app.example/callback"}},
	}
	if diff := cmp.Diff(want, clients); diff != "" {
		t.Errorf("clients (-want +got):\n%s", diff)
	}
	wantConfig := provider.Config{
		FetchNetworks: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, DPoPNonceOptional: true,
		Registration:   provider.Registration{InitialTokens: [][32]byte{initial}, MaxClients: 7},
		ClientMetadata: true, Implicit: true, Hybrid: true, RequestObjects: true, RequestURIs: true, Pairwise: true,
		PushesPerMinute: 9, ClientPushesPerMinute: 900,
	}
	if !reflect.DeepEqual(wantConfig, made) {
		t.Errorf("configured %+v, want %+v", made, wantConfig)
	}
	// A key that comes later has to be in the file above.
	for _, key := range qrgrant.ClientKeys() {
		if !strings.Contains(text, " "+key+":") {
			t.Errorf("the file of this test has no %s", key)
		}
	}
}
