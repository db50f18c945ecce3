import { Drive, generatedTrack, metres, parseGpx } from '@milagro-ts/car-tracking/gpx'
import { DecodeError } from '@milagro-ts/crypto/errors'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

const point = (lat: string, lon: string) => `<trkpt lat="${lat}" lon="${lon}"><ele>510.2</ele></trkpt>`
const gpx = (inner: string) =>
  `<?xml version="1.0" encoding="UTF-8"?>\n<gpx version="1.1" creator="a > b"><trk><trkseg>${inner}</trkseg></trk></gpx>`

describe('parseGpx', () => {
  test('reads track points in their order', () => {
    expect(parseGpx(gpx(point('48.1374', '11.5755') + point('-48.13750001', '-179.9999999')))).toEqual([
      { latE7: 481374000, lonE7: 115755000 },
      { latE7: -481375000, lonE7: -1799999999 },
    ])
  })

  test('reads prefixed names, single quotes, empty tags, comments and CDATA', () => {
    const text = `<!-- <trkpt lat="1" lon="1"/> --><x:gpx><x:trk><name><![CDATA[<trkpt]]></name>
      <x:trkpt lon='2.5' lat='1.5'/><x:trkpt
        lat = "1.6" lon = "2.6" ></x:trkpt></x:trk></x:gpx>`
    expect(parseGpx(text)).toEqual([
      { latE7: 15_000_000, lonE7: 25_000_000 },
      { latE7: 16_000_000, lonE7: 26_000_000 },
    ])
  })

  test('reads route points where there is no track', () => {
    expect(parseGpx('<gpx><rte><rtept lat="1" lon="2"/><rtept lat="1" lon="3"/></rte></gpx>')).toHaveLength(2)
  })

  test.each([
    ['nothing', ''],
    ['another root', '<kml></kml>'],
    ['two roots', '<gpx></gpx><gpx></gpx>'],
    ['a document type', `<!DOCTYPE gpx [<!ENTITY a "b">]>${gpx(point('1', '2') + point('1', '3'))}`],
    ['one point', gpx(point('1', '2'))],
    ['a latitude beyond the pole', gpx(point('90.1', '2') + point('1', '2'))],
    ['a longitude beyond 180', gpx(point('1', '180.1') + point('1', '2'))],
    ['a coordinate that is no number', gpx(point('1e1', '2') + point('1', '2'))],
    ['a missing coordinate', gpx(`<trkpt lat="1"/>${point('1', '2')}`)],
    ['a tag that is never closed', gpx(point('1', '2') + point('1', '3')).replace('</trkseg>', '')],
    ['a cut file', gpx(point('1', '2') + point('1', '3')).slice(0, -3)],
    ['a cut comment', '<gpx><!-- '],
  ])('refuses %s', (_what, text) => {
    expect(() => parseGpx(text)).toThrow(DecodeError)
  })

  test('answers any text with points or a DecodeError', () => {
    const pieces = fc.constantFrom(
      '<',
      '>',
      '/',
      'gpx',
      'trkpt',
      ' lat="1"',
      ' lon="2"',
      '"',
      '<!--',
      '-->',
      '<?',
      ' ',
    )
    fc.assert(
      fc.property(fc.array(pieces), parts => {
        try {
          parseGpx(parts.join(''))
        } catch (error) {
          expect(error).toBeInstanceOf(DecodeError)
        }
      }),
    )
  })
})

describe('Drive', () => {
  const square = [
    { latE7: 0, lonE7: 0 },
    { latE7: 0, lonE7: 100_000 },
    { latE7: 100_000, lonE7: 100_000 },
  ]

  test('moves at its speed and says where it heads', () => {
    const drive = new Drive(square, 10)
    const start = drive.at(0)
    expect(start).toMatchObject({ latE7: 0, lonE7: 0, heading: 90, speed: 10 })
    expect(metres(start, drive.at(30))).toBeCloseTo(300, 0)
    expect(drive.at(112).heading).toBe(0)
  })

  test('comes round again', () => {
    const drive = new Drive(square, 10)
    const lap =
      (metres(square[0]!, square[1]!) + metres(square[1]!, square[2]!) + metres(square[2]!, square[0]!)) / 10
    expect(metres(drive.at(5), drive.at(lap + 5))).toBeLessThan(0.1)
  })

  test('a car on one spot stands still', () => {
    expect(new Drive([square[0]!, square[0]!], 10).at(99)).toEqual({
      latE7: 0,
      lonE7: 0,
      speed: 0,
      heading: 0,
    })
  })

  test('a generated track is closed, and the same for the same seed', () => {
    const track = generatedTrack(7)
    expect(track.at(-1)).toEqual(track[0])
    expect(generatedTrack(7)).toEqual(track)
    expect(generatedTrack(8)).not.toEqual(track)
    expect(new Drive(track, 14).at(1000).speed).toBe(14)
  })
})
