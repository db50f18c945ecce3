/**
 * Attacks on the login (protocols.md §4, §9). Where a weaker protocol would fall, the test shows first that the attack
 * works there: an attack that can't work anywhere proves nothing.
 */
import { equalBytes, toHex, u8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import {
  Authenticated,
  type Binding,
  challengeTlv,
  clientProve,
  DeviceProven,
  factorsSatisfied,
  LoginMessage,
  type LoginTerms,
  MODE,
  type PinProof,
  type PinTerms,
  signsPayload,
  verifyUnknown,
} from '@milagro-ts/crypto/mpin'
import { hedgedNonce, NONCE_ROLE } from '@milagro-ts/crypto/nonce'
import { G1, G2, pairingProductIsOne } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { Permit, permitInput, permitPoint, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { decodeTlv, encodeTlv } from '@milagro-ts/crypto/tlv'
import { describe, expect, test } from 'vitest'
import {
  alphaOf,
  bareEquation,
  binding,
  car,
  digestOf,
  driven,
  EPOCH,
  frozen,
  groupId,
  keysOf,
  loginAlone,
  loginWithPin,
  makeCar,
  masters,
  mustBe,
  nonceTerms,
  pinTerms,
  RIGHT_PIN,
  rule,
  SLOT,
  scalarOf,
  seeded,
  signTerms,
  timeTerms,
} from './world.js'

const S_dev = masters.device.serverKey
const S_pin = masters.pin.serverKey
const random = seeded('the server’s weights')

const deviceVerdict = (message: LoginMessage, of: Binding = binding) =>
  DeviceProven.verify(message, of, S_dev)
const pinVerdict = (message: LoginMessage, of: Binding = binding) => {
  const proven = deviceVerdict(message, of)
  return proven && Authenticated.byPin(proven, S_pin, random)
}

/** What an attacker sends: proofs of his own making, under the challenge that his commitments give. */
function forge(attack: {
  readonly terms?: LoginTerms
  readonly U_dev: G1
  readonly V_dev: (c: Scalar) => G1
  readonly pin?: {
    readonly terms?: PinTerms
    readonly U_pin: G1
    readonly T: G1
    readonly V_pin: (c: Scalar) => G1
    readonly z: (c: Scalar) => Scalar
  }
}): LoginMessage {
  const { terms = nonceTerms, U_dev, V_dev, pin } = attack
  const of = pin && (pin.terms ?? pinTerms)
  const made = pin ? { U_dev, U_pin: pin.U_pin, T: pin.T } : { U_dev }
  const c = hashToScalar('CHAL', challengeTlv(terms, of, binding, made))
  const proof: PinProof | undefined = pin &&
    of && { ...of, U_pin: pin.U_pin, T: pin.T, V_pin: pin.V_pin(c), z: pin.z(c) }
  return LoginMessage.of(terms, { U_dev, V_dev: V_dev(c) }, proof)
}

describe('honest logins are accepted', () => {
  test.each([
    ['nonce', nonceTerms],
    ['time', timeTerms],
    ['sign', signTerms],
  ] as const)('%s, alone and with a PIN', (_, terms) => {
    expect(Authenticated.byDevice(mustBe(deviceVerdict(loginAlone(terms)))).amr).toEqual(['device'])
    expect(pinVerdict(loginWithPin(RIGHT_PIN, terms))?.amr).toEqual(['device', 'pin'])
  })

  test('of a personal device: a PIN without a user', () => {
    const terms = { userCore: NO_USER, pinGen: 1, pinEpoch: EPOCH.pin }
    const { D_dev, typed } = driven(car, terms)
    const message = clientProve({
      terms: nonceTerms,
      binding,
      deviceKey: D_dev,
      pin: { terms, pinKey: typed(RIGHT_PIN) },
      random,
    })
    expect(message.toJson()).not.toHaveProperty('userCore')
    const who = pinVerdict(LoginMessage.decode(message.encode()))
    expect([who?.amr, who?.userCore]).toEqual([['device', 'pin'], NO_USER])
  })
})

describe('U chosen after the challenge', () => {
  // Mallory holds the key of his own car B and names another car A: U = tB − yA, V = −t·sB.
  const B = keysOf(makeCar(66))
  const { A_dev } = keysOf(car)
  const t = scalarOf('t')
  const chosenAfter = (y: Scalar) => ({
    U: B.A_dev.mulPublic(t).subtract(A_dev.mulPublic(y)),
    V: B.D_dev.mulPublic(t).negate(),
  })

  test('opens any account where the challenge is not bound to U', () => {
    const y = scalarOf('a challenge that the server draws by itself')
    const { U, V } = chosenAfter(y)
    expect(bareEquation(V, U.add(A_dev.mulPublic(y)), masters.device.sQ)).toBe(true)
  })

  test('is refused here: c hashes U', () => {
    const y = mustBe(deviceVerdict(loginAlone())).challenge
    const { U, V } = chosenAfter(y)
    expect(deviceVerdict(forge({ U_dev: U, V_dev: () => V }))).toBeNull()
  })

  test('is refused for the PIN proof too', () => {
    const { D_dev } = keysOf(car)
    const x = scalarOf('x')
    const other = keysOf(makeCar(66))
    const { A_pin } = keysOf(car)
    const y = scalarOf('y')
    const U_pin = other.A_pin.mulPublic(t).subtract(A_pin.mulPublic(y))
    const message = forge({
      U_dev: A_dev.mulSecret(x),
      V_dev: c => D_dev.mulSecret(x.add(c)).negate(),
      pin: {
        U_pin,
        T: A_pin.mulPublic(t),
        V_pin: () => other.D_pin.mulPublic(t).negate(),
        z: c => t.add(c.multiply(t)),
      },
    })
    expect(deviceVerdict(message)).not.toBeNull()
    expect(pinVerdict(message)).toBeNull()
  })
})

describe('nonces of the client', () => {
  const logins = (of: typeof random) => {
    const first = loginWithPin(RIGHT_PIN, nonceTerms, of)
    const second = loginWithPin(RIGHT_PIN, { ...nonceTerms, nonce: digestOf('another nonce') }, of)
    return [first, second] as const
  }

  test('x reused gives the key away', () => {
    const { A_dev, D_dev } = keysOf(car)
    const x = scalarOf('x, twice')
    const [c1, c2] = [scalarOf('c1'), scalarOf('c2')]
    const V = (c: Scalar) => D_dev.mulSecret(x.add(c)).negate()
    const stolen = V(c2).subtract(V(c1)).mulPublic(c1.subtract(c2).invert())
    expect(stolen.equals(D_dev)).toBe(true)
    expect(bareEquation(V(c1), A_dev.mulSecret(x).add(A_dev.mulPublic(c1)), masters.device.sQ)).toBe(true)
  })

  test('a constant random source still gives another x, x’ and k in each login', () => {
    const [first, second] = logins(frozen)
    expect(first.U_dev.equals(second.U_dev)).toBe(false)
    expect(mustBe(first.pin).U_pin.equals(mustBe(second.pin).U_pin)).toBe(false)
    expect(mustBe(first.pin).T.equals(mustBe(second.pin).T)).toBe(false)
    // … and x' ≠ k within one: T = kA, U = x'A.
    expect(mustBe(first.pin).U_pin.equals(mustBe(first.pin).T)).toBe(false)
  })

  test('x’ = k gives D_pin away, so the two have roles of their own', () => {
    const { A_dev, D_dev, D_pin, A_pin } = keysOf(car)
    const k = scalarOf('one nonce for both')
    const x = scalarOf('x')
    /** From z = k + c·x' with k = x': x' = z/(1 + c), and V_pin = −(x' + c)·D_pin. */
    const extract = (message: LoginMessage) => {
      const { V_pin, z } = mustBe(message.pin)
      const c = mustBe(deviceVerdict(message)).challenge
      const guess = z.multiply(c.add(Scalar.fromNumber(1)).invert())
      return V_pin.negate().mulPublic(guess.add(c).invert())
    }
    const careless = forge({
      U_dev: A_dev.mulSecret(x),
      V_dev: c => D_dev.mulSecret(x.add(c)).negate(),
      pin: {
        U_pin: A_pin.mulSecret(k),
        T: A_pin.mulSecret(k),
        V_pin: c => D_pin.mulSecret(k.add(c)).negate(),
        z: c => k.add(c.multiply(k)),
      },
    })
    expect(pinVerdict(careless)).not.toBeNull()
    expect(extract(careless).equals(D_pin)).toBe(true)
    expect(extract(loginWithPin(RIGHT_PIN, nonceTerms, frozen)).equals(D_pin)).toBe(false)
  })

  test('two typed PINs under a constant source differ in x’, since the joined key is hashed and not the token', () => {
    const right = mustBe(loginWithPin(RIGHT_PIN, nonceTerms, frozen).pin)
    const wrong = mustBe(loginWithPin('9999', nonceTerms, frozen).pin)
    expect(right.U_pin.equals(wrong.U_pin)).toBe(false)
  })

  test('each role of a hedged nonce is a function of its own', () => {
    const key = keysOf(car).D_dev.encode()
    const made = Object.values(NONCE_ROLE).map(role => toHex(hedgedNonce(role, frozen, key, key).encode()))
    expect(new Set(made).size).toBe(made.length)
  })

  test('a source that gives too little is refused', () => {
    expect(() => loginAlone(nonceTerms, () => new Uint8Array(31))).toThrow(RangeError)
  })
})

describe('a thief with device key and token, without the PIN', () => {
  // He mixes ρ(τ + α'A_pin) into something that the server checks without a strike, and reads the answer.
  const thief = driven()
  const rho = scalarOf('rho of the thief')
  const x = scalarOf('x of the thief')
  const guesses = [RIGHT_PIN, '9999'] as const

  /** The device proof of a car whose key he holds, with a guess at the PIN mixed in. */
  const mixed = (idCore: IdCore, guess: string, s?: Scalar) => {
    const own = keysOf(idCore)
    const D_dev = s ? own.A_dev.mulSecret(s) : own.D_dev
    const joined = s
      ? thief.A_pin.mulSecret(s)
          .subtract(thief.A_pin.mulSecret(alphaOf(RIGHT_PIN)))
          .add(thief.A_pin.mulSecret(alphaOf(guess)))
      : thief.typed(guess)
    return forge({
      terms: { ...nonceTerms, idCore },
      U_dev: own.A_dev.mulPublic(x).add(thief.A_pin.mulPublic(rho)),
      V_dev: c => D_dev.mulPublic(x.add(c)).add(joined.mulPublic(rho)).negate(),
    })
  }
  const holdsUnder = (message: LoginMessage, s: Scalar) => {
    const c = hashToScalar('CHAL', challengeTlv(message, undefined, binding, { U_dev: message.U_dev }))
    const X = message.U_dev.add(keysOf(message.idCore).A_dev.mulPublic(c))
    return bareEquation(message.V_dev, X, G2.generator.mulPublic(s))
  }

  test('would test PINs in the device proof if both purposes had one secret', () => {
    const s = scalarOf('one secret for everything')
    expect(guesses.map(guess => holdsUnder(mixed(car, guess, s), s))).toEqual([true, false])
  })

  test('learns nothing from the device proof', () => {
    expect(guesses.map(guess => deviceVerdict(mixed(car, guess)))).toEqual([null, null])
  })

  test('learns nothing from the login of his own car', () => {
    expect(guesses.map(guess => deviceVerdict(mixed(makeCar(66), guess)))).toEqual([null, null])
  })

  /** His own PIN account, with a guess at the victim's mixed into its proof. */
  const ownTerms = { ...nonceTerms, idCore: makeCar(66) }
  const own = driven(ownTerms.idCore)
  const mixedIntoAccount = (
    guess: string,
    change: { T?: G1; V?: (c: Scalar) => G1; z?: (c: Scalar) => Scalar },
  ) => {
    const xPin = scalarOf('x of his own account')
    const k = scalarOf('k of his own account')
    const U_pin = own.A_pin.mulPublic(xPin).add(thief.A_pin.mulPublic(rho))
    const T = change.T ?? own.A_pin.mulPublic(k)
    const z = change.z ?? ((c: Scalar) => k.add(c.multiply(xPin)))
    const plain = (c: Scalar) =>
      own.D_pin.mulPublic(xPin.add(c)).add(thief.typed(guess).mulPublic(rho)).negate()
    return forge({
      terms: ownTerms,
      U_dev: own.A_dev.mulPublic(x),
      V_dev: c => own.D_dev.mulPublic(x.add(c)).negate(),
      pin: {
        U_pin,
        T,
        z,
        V_pin: c => (change.V === undefined ? plain(c) : plain(c).add(change.V(c))),
      },
    })
  }

  test('would test PINs in his own account if nothing showed that U_pin is a multiple of A_pin', () => {
    const answers = guesses.map(guess => {
      const message = mixedIntoAccount(guess, {})
      const c = mustBe(deviceVerdict(message)).challenge
      const { U_pin, V_pin } = mustBe(message.pin)
      return bareEquation(V_pin, U_pin.add(own.A_pin.mulPublic(c)), masters.pin.sQ)
    })
    expect(answers).toEqual([true, false])
  })

  test('learns nothing from his own account', () => {
    expect(guesses.map(guess => pinVerdict(mixedIntoAccount(guess, {})))).toEqual([null, null])
  })

  test('learns nothing with a T that guesses the challenge', () => {
    const guessed = scalarOf('a guess at c')
    const T = own.A_pin.mulPublic(scalarOf('k')).subtract(thief.A_pin.mulPublic(rho.multiply(guessed)))
    expect(guesses.map(guess => pinVerdict(mixedIntoAccount(guess, { T })))).toEqual([null, null])
  })

  // With weight 1 he knows what is added to V_pin, and takes it off beforehand.
  const compensated = (guess: string) => {
    const xPin = scalarOf('x of his own account')
    const k = scalarOf('k of his own account')
    const U_pin = own.A_pin.mulPublic(xPin).add(thief.A_pin.mulPublic(rho))
    return mixedIntoAccount(guess, {
      V: c => {
        const z = k.add(c.multiply(xPin))
        const added = own.A_pin.mulPublic(z).subtract(own.A_pin.mulPublic(k)).subtract(U_pin.mulPublic(c))
        return added.negate()
      },
    })
  }
  const weightOne = (length: number) => {
    const bytes = new Uint8Array(length)
    bytes[length - 1] = 1
    return bytes
  }

  test('would test PINs if the weight of the Schnorr part were 1', () => {
    const answers = guesses.map(guess =>
      Authenticated.byPin(mustBe(deviceVerdict(compensated(guess))), S_pin, weightOne),
    )
    expect(answers.map(answer => answer !== null)).toEqual([true, false])
  })

  test('learns nothing from that: the weight is random and drawn after everything is fixed', () => {
    expect(guesses.map(guess => pinVerdict(compensated(guess)))).toEqual([null, null])
  })

  test('a random source that gives zeros is no weight: refused, not looped over', () => {
    const proven = mustBe(deviceVerdict(compensated('9999')))
    expect(() => Authenticated.byPin(proven, S_pin, length => new Uint8Array(length))).toThrow(RangeError)
  })
})

describe('factors', () => {
  test('which messages may log whom in', () => {
    const table = ([0, 1, 2] as const).map(factors =>
      [false, true].map(hasPin => [false, true].map(wanted => factorsSatisfied(factors, hasPin, wanted))),
    )
    expect(table).toEqual([
      // No PIN by the RA's word: a PIN proof is refused, a service that wants one is not satisfied.
      [
        [true, false],
        [false, false],
      ],
      // Both by the RA's word.
      [
        [false, false],
        [true, true],
      ],
      // As the service wants.
      [
        [true, false],
        [true, true],
      ],
    ])
  })

  test('the device alone does not do where the identity demands a PIN', () => {
    const idCore = makeCar(7, 1)
    const proven = mustBe(deviceVerdict(loginAlone({ ...nonceTerms, idCore })))
    expect(() => Authenticated.byDevice(proven)).toThrow(RangeError)
  })

  test('a PIN proof that is there is not passed over', () => {
    const proven = mustBe(deviceVerdict(loginWithPin('9999')))
    expect(() => Authenticated.byDevice(proven)).toThrow(RangeError)
  })

  test('no PIN proof, no verdict on one', () => {
    const proven = mustBe(deviceVerdict(loginAlone()))
    expect(() => Authenticated.byPin(proven, S_pin, random)).toThrow(RangeError)
  })

  test('an identity without a PIN can’t prove one', () => {
    const idCore = makeCar(8, 0)
    const proven = mustBe(deviceVerdict(loginWithPin(RIGHT_PIN, { ...nonceTerms, idCore })))
    expect(() => Authenticated.byPin(proven, S_pin, random)).toThrow(RangeError)
  })

  test('the PIN proof taken off, or put on from another login', () => {
    const message = loginWithPin()
    const stripped = LoginMessage.of(message, message)
    expect(deviceVerdict(stripped)).toBeNull()
    const alone = loginAlone()
    expect(deviceVerdict(LoginMessage.of(alone, alone, message.pin))).toBeNull()
  })

  test('a right PIN with a wrong device proof is nothing', () => {
    const message = loginWithPin()
    const broken = LoginMessage.of(
      message,
      { U_dev: message.U_dev, V_dev: message.V_dev.negate() },
      message.pin,
    )
    expect(deviceVerdict(broken)).toBeNull()
  })

  test('the other server key: a device proof under S_pin, a PIN proof under S_dev', () => {
    expect(DeviceProven.verify(loginAlone(), binding, S_pin)).toBeNull()
    const proven = mustBe(deviceVerdict(loginWithPin()))
    expect(Authenticated.byPin(proven, S_dev, random)).toBeNull()
  })

  test('one half of a PIN proof from another login of the same driver', () => {
    const first = loginWithPin()
    const second = loginWithPin(RIGHT_PIN, nonceTerms, seeded('another login'))
    const { V_pin, z } = mustBe(second.pin)
    const spliced = LoginMessage.of(first, first, { ...mustBe(first.pin), V_pin, z })
    expect(deviceVerdict(spliced)).not.toBeNull()
    expect(pinVerdict(spliced)).toBeNull()
  })

  test('a look-alike of a passed check does not compile', () => {
    type LookAlike<T> = { [K in keyof T]: T[K] }
    type Refuses<T> = LookAlike<T> extends T ? false : true
    const refused: readonly [
      Refuses<Authenticated>,
      Refuses<DeviceProven>,
      Refuses<VerifiedPermit>,
      Refuses<LoginMessage>,
      Refuses<G1>,
      Refuses<IdCore>,
    ] = [true, true, true, true, true, true]
    expect(refused).not.toContain(false)
  })
})

describe('PINs', () => {
  const { A_pin, D_pin } = keysOf(car)
  const pins = ['0000', '', '1', '12345678901234567890'.repeat(20), 'пароль', '🔑🔑', ' ', '1234 ']

  test.each(pins)('"%s" works, and nothing else works in its place', pin => {
    const alpha = alphaOf(pin)
    const token = D_pin.subtract(A_pin.mulSecret(alpha))
    const login = (typed: string) => {
      const pinKey = token.add(A_pin.mulSecret(alphaOf(typed)))
      const { D_dev } = keysOf(car)
      const pinPart = { terms: pinTerms, pinKey }
      return clientProve({ terms: nonceTerms, binding, deviceKey: D_dev, pin: pinPart, random })
    }
    expect(pinVerdict(login(pin))).not.toBeNull()
    expect(pinVerdict(login(`1${pin}`))).toBeNull()
  })

  test('no two of them are one', () => {
    expect(new Set(pins.map(pin => toHex(alphaOf(pin).encode()))).size).toBe(pins.length)
  })

  test('the token alone, as if no PIN had been split off', () => {
    const { D_dev, token } = driven()
    const pin = { terms: pinTerms, pinKey: token }
    expect(pinVerdict(clientProve({ terms: nonceTerms, binding, deviceKey: D_dev, pin, random }))).toBeNull()
  })

  test.each([
    ['another driver', { ...pinTerms, userCore: digestOf('another driver') }],
    ['no driver', { ...pinTerms, userCore: NO_USER }],
    ['the former pinGen', { ...pinTerms, pinGen: 0 }],
    ['another pin epoch', { ...pinTerms, pinEpoch: EPOCH.pin + 1 }],
  ])('claimed: %s', (cause, terms) => {
    const { D_dev, typed } = driven()
    const pin = { terms, pinKey: typed(RIGHT_PIN) }
    const message = clientProve({ terms: nonceTerms, binding, deviceKey: D_dev, pin, random })
    // The epoch is bound by c alone: which key it means is for the server to compare.
    if (cause === 'another pin epoch') expect(pinVerdict(message)).not.toBeNull()
    else expect(pinVerdict(message)).toBeNull()
    const honest = loginWithPin()
    const relabelled = LoginMessage.of(honest, honest, { ...mustBe(honest.pin), ...terms })
    expect(deviceVerdict(relabelled)).toBeNull()
  })
})

describe('what a proof is bound to', () => {
  test('another group', () => {
    expect(deviceVerdict(loginAlone(), { groupId: digestOf('another group') })).toBeNull()
  })

  test('the TLS exporter: another, missing, or added', () => {
    const tlsExporter = digestOf('this connection')
    const bound = clientProve({
      terms: nonceTerms,
      binding: { groupId, tlsExporter },
      deviceKey: keysOf(car).D_dev,
      random,
    })
    expect(deviceVerdict(bound, { groupId, tlsExporter })).not.toBeNull()
    expect(deviceVerdict(bound, { groupId, tlsExporter: digestOf('another connection') })).toBeNull()
    expect(deviceVerdict(bound)).toBeNull()
    expect(deviceVerdict(loginAlone(), { groupId, tlsExporter })).toBeNull()
  })

  test('an exporter of another length is a mistake, since an empty one would be none', () => {
    expect(() => deviceVerdict(loginAlone(), { groupId, tlsExporter: new Uint8Array() })).toThrow(RangeError)
  })

  test.each([
    ['audience', { audience: 'https://other.example' }],
    ['key epoch', { deviceEpoch: EPOCH.device + 1 }],
    ['slot', { slot: SLOT + 1 }],
    ['nonce', { nonce: digestOf('another nonce') }],
    ['identity', { idCore: makeCar(6) }],
    ['factors of the identity', { idCore: makeCar(5, 0) }],
  ])('another %s', (_, change) => {
    const message = loginAlone()
    expect(deviceVerdict(LoginMessage.of({ ...nonceTerms, ...change }, message))).toBeNull()
  })

  const modes = { nonce: nonceTerms, time: timeTerms, sign: signTerms }
  const payloadHash = digestOf('a position')
  test.each([
    ['a login as a signature', modes.nonce, { ...nonceTerms, mode: MODE.sign, payloadHash }],
    ['a one-pass login as a signature', modes.time, { ...timeTerms, mode: MODE.sign, payloadHash }],
    ['a signature as a one-pass login', modes.sign, timeTerms],
    ['a one-pass login as one with a nonce', modes.time, nonceTerms],
    ['a login with a nonce as a one-pass login', modes.nonce, timeTerms],
    [
      'a signature of one payload for another',
      modes.sign,
      { ...signTerms, payloadHash: digestOf('another') },
    ],
    ['a one-pass login at another time', modes.time, { ...timeTerms, clientTime: 1_775_869_201 }],
  ] as const)('%s', (_, made, claimed) => {
    const message = loginAlone(made)
    expect(deviceVerdict(message)).not.toBeNull()
    expect(deviceVerdict(LoginMessage.of(claimed, message))).toBeNull()
  })

  test('a nonce and a time of the same length are not taken for each other: both together are refused', () => {
    expect(() => loginAlone({ ...nonceTerms, clientTime: 1 })).toThrow(DecodeError)
    expect(() => loginAlone({ ...timeTerms, nonce: digestOf('n') })).toThrow(DecodeError)
    expect(() => loginAlone({ ...signTerms, nonce: digestOf('n') })).toThrow(DecodeError)
    const { clientTime: _, ...neither } = signTerms
    expect(() => loginAlone(neither)).toThrow(DecodeError)
  })

  test('the payload that was signed, and no other', () => {
    const who = Authenticated.byDevice(mustBe(deviceVerdict(loginAlone(signTerms))))
    expect(signsPayload(who.payloadHash, digestOf('a position'))).toBe(true)
    expect(signsPayload(who.payloadHash, digestOf('another position'))).toBe(false)
    expect(signsPayload(undefined, digestOf('a position'))).toBe(false)
  })
})

describe('every field of a message, flipped', () => {
  const permit = Permit.of(
    SLOT,
    { type: 'id', idCore: car },
    permitPoint(
      permitInput({ groupId, permitEpoch: EPOCH.permit, rule }, SLOT, { type: 'id', idCore: car }),
    ).mulSecret(masters.permit.s),
  )
  const permitTerms = { groupId, permitEpoch: EPOCH.permit, rule }
  const messages = {
    nonce: loginWithPin().withPermit(permit),
    sign: loginWithPin(RIGHT_PIN, signTerms).withPermit(permit),
  }
  const NAMES = [
    'mode',
    'audience',
    'device epoch',
    'slot',
    'nonce',
    'clientTime',
    'idCore',
    'userCore',
    'permit',
    'U_dev',
    'V_dev',
    'U_pin',
    'T',
    'V_pin',
    'z',
    'payload hash',
    'pinGen',
    'pin epoch',
    'suite',
  ]
  /** Does everything hold that an RPS checks? */
  const accepted = (bytes: Uint8Array): boolean => {
    let message: LoginMessage
    try {
      message = LoginMessage.decode(bytes)
    } catch (error) {
      if (error instanceof DecodeError) return false
      throw error
    }
    if (pinVerdict(message) === null) return false
    const verified = message.permit && VerifiedPermit.verify(permitTerms, masters.permit.sQ, message.permit)
    return verified?.covers(car) === true && verified.slot === message.slot
  }

  for (const [mode, message] of Object.entries(messages)) {
    const entries = decodeTlv(message.encode(), { tags: NAMES.length, field: 'message' })
    test(`${mode}: as it is, accepted`, () => {
      expect(accepted(encodeTlv(entries))).toBe(true)
    })
    entries.forEach((value, i) => {
      if (value === undefined) return
      test(`${mode}: ${NAMES[i]}`, () => {
        const positions = new Set([0, 1, value.length >> 1, value.length - 1].filter(at => at < value.length))
        for (const at of positions) {
          for (const bit of [0x01, 0x20, 0x80]) {
            const flipped = value.map((byte, j) => (j === at ? byte ^ bit : byte))
            expect(accepted(encodeTlv(entries.with(i, flipped)))).toBe(false)
          }
        }
      })
      test(`${mode}: ${NAMES[i]} left out`, () => {
        expect(accepted(encodeTlv(entries.with(i, undefined)))).toBe(false)
      })
    })
    test(`${mode}: each point replaced by another good one`, () => {
      const other = scalarOf('another point')
      for (const tag of [10, 11, 12, 13, 14]) {
        const point = G1.generator.mulPublic(other).encode()
        expect(accepted(encodeTlv(entries.with(tag - 1, point)))).toBe(false)
        const negated = G1.decode(mustBe(entries[tag - 1]))
          .negate()
          .encode()
        expect(accepted(encodeTlv(entries.with(tag - 1, negated)))).toBe(false)
      }
    })
  }

  test('c’s own TLV: every byte counts', () => {
    const { pin } = messages.nonce
    const made = { U_dev: messages.nonce.U_dev, U_pin: mustBe(pin).U_pin, T: mustBe(pin).T }
    const tlv = challengeTlv(nonceTerms, pinTerms, binding, made)
    const c = hashToScalar('CHAL', tlv)
    for (let at = 0; at < tlv.length; at++) {
      const flipped = tlv.map((byte, i) => (i === at ? byte ^ 1 : byte))
      expect(hashToScalar('CHAL', flipped).equals(c)).toBe(false)
    }
  })
})

describe('a permit merged into the login', () => {
  const target = { type: 'id', idCore: car } as const
  const terms = { groupId, permitEpoch: EPOCH.permit, rule }
  const HT = permitPoint(permitInput(terms, SLOT, target))
  const permit = HT.mulSecret(masters.permit.s)
  // The car keeps the sum of V and permit, and puts garbage where the permit belongs.
  const garbage = G1.generator.mulPublic(scalarOf('garbage'))
  const honest = loginAlone()
  const V_dev = honest.V_dev.add(permit).subtract(garbage)
  const message = LoginMessage.of(
    nonceTerms,
    { U_dev: honest.U_dev, V_dev },
    undefined,
    Permit.of(SLOT, target, garbage),
  )

  test('lets garbage pass with weight 1', () => {
    const c = mustBe(deviceVerdict(honest)).challenge
    const merged = pairingProductIsOne([
      [V_dev.add(garbage), G2.generator],
      [honest.U_dev.add(keysOf(car).A_dev.mulPublic(c)), masters.device.sQ],
      [HT.negate(), masters.permit.sQ],
    ])
    expect(merged).toBe(true)
  })

  test('is refused: each is checked by itself', () => {
    expect(deviceVerdict(message)).toBeNull()
    expect(VerifiedPermit.verify(terms, masters.permit.sQ, mustBe(message.permit))).toBeNull()
  })
})

describe('unknown identities', () => {
  test('cost the same equation and are never accepted, not even with a proof for the stand-in', () => {
    // Whoever holds the key of the all-zero idCore (nobody does) still isn't the identity that he names.
    const zero = keysOf(IdCore.zero)
    const x = scalarOf('x')
    const message = forge({
      U_dev: zero.A_dev.mulSecret(x),
      V_dev: c => zero.D_dev.mulSecret(x.add(c)).negate(),
    })
    expect(verifyUnknown(message, binding, S_dev)).toBeUndefined()
    expect(deviceVerdict(message)).toBeNull()
  })

  test('the stand-in is no identity that an RA issues: its digest would have to be zero', () => {
    expect(equalBytes(IdCore.zero.bytes, new Uint8Array(39))).toBe(true)
    expect(IdCore.decode(IdCore.zero.bytes).factors).toBe(0)
  })
})

test('two tokens of one key give both PINs and the key, without a strike: why a key is split once', () => {
  const { A_pin, D_pin, D_dev } = keysOf(car)
  const pins = Array.from({ length: 60 }, (_, i) => String(1000 + i))
  const split = (pin: string, D: G1, A: G1) => D.subtract(A.mulPublic(alphaOf(pin)))
  /** From τ1 − τ2 = (α2 − α1)A: look for the pair. */
  const search = (first: G1, second: G1) => {
    const table = new Map(pins.map(pin => [toHex(second.add(A_pin.mulPublic(alphaOf(pin))).encode()), pin]))
    for (const pin of pins) {
      const D = first.add(A_pin.mulPublic(alphaOf(pin)))
      const other = table.get(toHex(D.encode()))
      if (other !== undefined) return { pins: [pin, other], D }
    }
    return null
  }
  const found = search(split('1017', D_pin, A_pin), split('1042', D_pin, A_pin))
  expect(found?.pins).toEqual(['1017', '1042'])
  const pin = { terms: pinTerms, pinKey: mustBe(found).D }
  expect(
    pinVerdict(clientProve({ terms: nonceTerms, binding, deviceKey: D_dev, pin, random })),
  ).not.toBeNull()

  // The next pinGen is another key: its token and the former one say nothing about each other.
  const next = keysOf(car, { ...pinTerms, pinGen: 2 })
  expect(search(split('1017', D_pin, A_pin), split('1042', next.D_pin, next.A_pin))).toBeNull()
})

test('a message says its mode in one byte, and only three are known', () => {
  for (const message of [loginAlone(), loginAlone(timeTerms), loginAlone(signTerms)]) {
    const entries = decodeTlv(message.encode(), { tags: 19, field: 'message' })
    for (const mode of [3, 4, 255]) {
      expect(() => LoginMessage.decode(encodeTlv(entries.with(0, u8(mode))))).toThrow(DecodeError)
    }
  }
})
