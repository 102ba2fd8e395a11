"""The FileDescriptorSet of plugin.proto and health.proto in base64(zlib). Written by ``make proto``."""

from __future__ import annotations

DESCRIPTORS = (
    "eNq1VUtv00AQxkmb1BM/oi1CVmirygi1SMhSi8SjHEsEUdUEOTyO0dbeJlbjB951RP8CUn8MV078CH4JJ47Y693IDu0BKm6eb2dm5/tmZg1fGq"
    "DNCJ6zmZOkMYuRMU0TzxHQ4sB2AL3hxvGMeBcu+ZQRypAFbUrSReARS9lV9lVXmvZXBTZrATSJI0rQAFqUYZZRHmAcHjj1i5xrgpxxkTSajnmg"
    "KxLYI9BrB6gD7ffDk+Ho47B7pzDGfffDYPi6qyATOsPRu4kEGmgTTG4c9ycypHnW4tSfwJUGWjLPpkFUimH/bIDR/0y8jJEK8wRfzmPscyKaK0"
    "20DZCWTpPAtxpcFlUgAx89hXZO1icptZq7zf3O4ZZTT10oUBz3I5ZeutIZvYCNkDDsY4atNR64vRp4Ks7LyKV7URELQhJnbBJSaz2vqOmqAjml"
    "aAvUOCEpZkEcWa2y3iXQOwKtWhDqQvOCXIp2F5/oLqwv8DwjgmtpHDWeK72XoNdq+ptg+5cC5pKgmJ5/Vj2/hqRpnOaa82u4UQTxj8lFEPm5qj"
    "yIIyc5gI4qkq9zyXeclYpu0vx21E3QyzUQnbW/KWBIREhxr7ZIqtyKQqKQUIqnMq80axPUFBNUT/p/2OjQGUTnseTyPX9qSlswQbAW4VC+IPy7"
    "YLHIR66YSMFCmGgXOj6hXhokfF7LflahQhmcsVne7LKjwkI2aB5O8FkwD1hAKG+p6tYw9KyiUYtrdN+pFnvjjjkAy52hVpuHGs5IQjxHxeN2iv"
    "5QQK+lvlbDFaUafyq1AxD4JExiRiLGpdxwK0ixHwGd+OQcZ3PG1dxw1YC+KgH0EAy5c9SbkRDzt0V1dYGOOYj2wEyFfNKvfGUMCZeOh1c5rbf8"
    "3R2XfxH0GNpi4ZC58tr1uqu7iB5Bq5xnZDi1/emZK4OOHsAa101zKqPZ02u9lv+D3204GbM="
)
