"""The FileDescriptorSet of plugin.proto and health.proto in base64(zlib). Written by ``make proto``."""

from __future__ import annotations

DESCRIPTORS = (
    "eNq1VMuO0zAUJU0f5DZpKg9CUWFQFTaDhCJNkXiU5aiCajQtSnksK09j2qhtEmKnor+AhMSvsOU7+Ag+gSWxY4+SChaAZudz7XOvz7nXhk81MF"
    "cEb9jKS9KYxaizTJOFJ0O7U9cD9FKAsxVZrH3yISOUIQdalKS7cEEcra+dGL6C7lcNjioEmsQRJWgMTcowy6ggdAanXrWQ9xuSN+NJo+VMEH2Z"
    "wJ2CVdlAbWi9mZxPpu8m3RsczEb+2/HkRVdDNrQn09dzFaihI7AFOBvNFUW/bArpj+CHAWayyZZhVJjhfq9BZ/SRLDJGSsoTvN/EOBBCTF9BdA"
    "yQFofmYeDUhC2GjIwD9BhaudiApNTR+/pJe3DXq6bmDvDtUcTSva8Oo2dwc0sYDjDDTl0Qjw+JF3K/YF4d5zdi4ZbEGZtvqdPIb6T7hoxc0N4Q"
    "zHJJ1AV9TfayoXyJbkFjhzcZkWoKMKw91XrPwapU/Ruy+1MD+0qCnI9/9jUvQ9I0TnNXRRkBOEks5uswCnLfBElEzvMAGpZMbQhT73kHN/qTq/"
    "8n3QarGHTZO/ebBh0VkVbcrjwVQ809t2hLKMVLlVfByozockaqSa9HjQXtcfQ+Vlq+5J9JgaUSBPUIb9UfIdZcxS4fuTCOlAoJUR/aAaGLNEwY"
    "3y36WQ5xZ3DGVnmzi45KhFwwFzjBl+EmZCGhoqWGX4mhJyWPmsKjO175stfi0OCzBtYr8aXMig8SPYSWnDRkHzzkXvdwCNEDaBaNRB2vMjg9+6"
    "DD6D7UuR5keqWe9KyKSPXV/QKRBsEV"
)
