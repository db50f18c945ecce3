/**
 * A certificate for gw.example with its key, P-256, self-signed: what somebody got from a CA for the server's name. Made by
 * `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj /CN=gw.example -addext
 * subjectAltName=DNS:gw.example`.
 */
export const cert = `-----BEGIN CERTIFICATE-----
MIIBmDCCAT6gAwIBAgIUTbDtAzQg2GBQWxYQe7+4qNckCY8wCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKZ3cuZXhhbXBsZTAgFw0yNjExMjYwNTAyMjVaGA8yMTI2MTEw
MjA1MDIyNVowFTETMBEGA1UEAwwKZ3cuZXhhbXBsZTBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABF1G1H1vIObC58uj3cD6y3BsLde8pBMYCVUnfp6KByMOB2Fj+X7d
vhU3dNaNgWiFsCoAUbAVFIucvA5D9QNYraqjajBoMB0GA1UdDgQWBBQfQEfKlpAJ
X5iYckvE35bKvuGYPTAfBgNVHSMEGDAWgBQfQEfKlpAJX5iYckvE35bKvuGYPTAP
BgNVHRMBAf8EBTADAQH/MBUGA1UdEQQOMAyCCmd3LmV4YW1wbGUwCgYIKoZIzj0E
AwIDSAAwRQIhAOCZCze1vo7DKjuYyZFrRP3y566GYUyHEZr9loveFF0XAiBAkJxg
x/0Cq4tAeNZAk3ym++hA23WXHJ1JFENKEXps6w==
-----END CERTIFICATE-----`
export const key = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg5dK1vrbBtFz3xA73
LoZ47sUVS+aV2Z+25rw0UAHk41ChRANCAARdRtR9byDmwufLo93A+stwbC3XvKQT
GAlVJ36eigcjDgdhY/l+3b4VN3TWjYFohbAqAFGwFRSLnLwOQ/UDWK2q
-----END PRIVATE KEY-----`
