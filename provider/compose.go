package provider

import (
	"context"
	"net/url"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// The grant types beside the two of package qr.
const (
	grantCode    = "authorization_code"
	grantRefresh = "refresh_token"
	grantClient  = "client_credentials"
)

// strategies is what the factories pick their interfaces from.
type strategies struct {
	oauth2.CoreStrategy
	openid.OpenIDConnectTokenStrategy
}

// composeFosite is the one call to fosite. The order is that of the token endpoint: the grant
// first, then what checks it (PKCE), last what needs its access token (openid).
func (p *Provider) composeFosite() fosite.OAuth2Provider {
	strategy := strategies{
		CoreStrategy:               &tokenStrategy{config: &p.config, keys: p.keys},
		OpenIDConnectTokenStrategy: p.idTokens,
	}
	return compose.Compose(p.fositeConfig(), p.tokens, strategy,
		compose.OAuth2AuthorizeExplicitFactory,
		compose.OAuth2RefreshTokenGrantFactory,
		compose.OAuth2ClientCredentialsGrantFactory,
		func(fosite.Configurator, any, any) any { return newPKCEHandler(p.tokens) },
		p.qr.Factory,
		func(fosite.Configurator, any, any) any {
			return &openidHandler{IDTokenHandleHelper: &openid.IDTokenHandleHelper{IDTokenStrategy: p.idTokens}, lifetime: p.config.IDTokenLifetime}
		},
	)
}

// fositeConfig sets every field fosite reads: those left nil it fills in while serving, which
// is a data race. Only the fetchers of foreign keys stay nil: client assertions and request
// objects are refused before fosite sees them, and the default fetcher starts goroutines.
func (p *Provider) fositeConfig() *fosite.Config {
	config := &fosite.Config{
		AccessTokenLifespan:   p.config.AccessTokenLifetime,
		RefreshTokenLifespan:  p.config.RefreshTokenLifetime,
		AuthorizeCodeLifespan: codeLifetime,
		IDTokenLifespan:       p.config.IDTokenLifetime,
		IDTokenIssuer:         p.config.Issuer,
		AccessTokenIssuer:     p.config.Issuer,
		TokenURL:              p.urlOf(routeToken),
		ScopeStrategy:         fosite.ExactScopeStrategy,
		// Audiences are set by us and stored; a client never asks for one.
		AudienceMatchingStrategy: func([]string, []string) error { return nil },
		RefreshTokenScopes:       []string{"offline_access"},
		RedirectSecureChecker:    func(context.Context, *url.URL) bool { return true }, // redirectURI judged it
		SanitationWhiteList:      []string{"redirect_uri", "code_challenge"},
		OmitRedirectScopeParam:   true,
		MinParameterEntropy:      1,
		TokenEntropy:             32,
		AllowedPromptValues:      []string{"none", "login", "consent", "select_account"},
		JWTScopeClaimKey:         jwt.JWTScopeFieldString,
		EnforcePKCE:              true,
	}
	config.ClientSecretsHasher = &fosite.BCrypt{Config: config}
	config.ClientAuthenticationStrategy = p.authenticate
	return config
}

// newTokens returns fosite's storage over ours.
func newTokens(c *Config, d *documents) *fositestore.Store {
	return fositestore.New(fositestore.Config{
		Store:             c.Store,
		NewSession:        func() fositestore.Session { return &session{} },
		Described:         d.client,
		Now:               c.Now,
		CodeLifetime:      codeLifetime,
		AccessLifetime:    c.accessLifetime,
		RefreshLifetime:   c.RefreshTokenLifetime,
		QRRefreshLifetime: qrRefreshLifetime,
	})
}

// isDeviceGrant reports whether a grant type is one of package qr's.
func isDeviceGrant(grant string) bool {
	return grant == qr.GrantType || grant == qr.DeviceGrantType
}
