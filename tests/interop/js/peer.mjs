// A js-libp2p peer on QUIC: prints its address, then obeys lines on stdin, one JSON answer each.
//   ping MULTIADDR        {"ping_ms": 3}
//   identify MULTIADDR    {"agent": "...", "protocols": [...]}
import { createInterface } from 'node:readline'

// Node 20 lacks it, and js-libp2p 2 asks for it.
Promise.withResolvers ??= () => {
  let resolve, reject
  const promise = new Promise((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}

const { createLibp2p } = await import('libp2p')
const { quic } = await import('@chainsafe/libp2p-quic')
const { identify } = await import('@libp2p/identify')
const { ping } = await import('@libp2p/ping')
const { multiaddr } = await import('@multiformats/multiaddr')

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/udp/0/quic-v1'] },
  transports: [quic()],
  connectionGater: { denyDialMultiaddr: () => false },
  services: { identify: identify(), ping: ping() }
})
console.log(JSON.stringify({ address: node.getMultiaddrs()[0].toString() }))

for await (const line of createInterface({ input: process.stdin })) {
  const [command, text] = line.split(' ')
  try {
    if (command === 'ping') {
      console.log(JSON.stringify({ ping_ms: await node.services.ping.ping(multiaddr(text)) }))
    } else {
      const connection = await node.dial(multiaddr(text))
      const result = await node.services.identify.identify(connection)
      console.log(JSON.stringify({ agent: result.agentVersion, protocols: result.protocols }))
    }
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }))
  }
}
await node.stop()
process.exit(0)
