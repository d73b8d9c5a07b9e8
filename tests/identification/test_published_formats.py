"""Reference libraries as their providers publish them: each name at its rank, and names of nothing at none."""

import json

import numpy as np
import pytest
from made_up_references import ancestor

from bioscan_hf.identification.formats import read_references
from bioscan_hf.identification.forms import one_form, species_form
from bioscan_hf.identification.lineages import by_position, from_name

DNA = [ancestor(np.random.default_rng(seed))[:420] for seed in range(3)]
RANKS = ("phylum", "class", "order", "family", "genus", "species")


def fasta(*headers, dna=DNA):
    return "".join(f">{header}\n{one}\n" for header, one in zip(headers, dna, strict=False))


def ranks(text):
    """ "Arthropoda Insecta - Apidae Apis -" as ranks; the species is the genus and the last word."""
    names = [None if name == "-" else name for name in text.split()]
    return [*names[:5], f"{names[4]} {names[5]}" if names[5] else None]


BEE, AMOEBA = (
    "Arthropoda Insecta Hymenoptera Apidae Apis mellifera",
    "Discosea Flabellinia - Vannellidae Clydonella sawyeri",
)
MOSQUITO, AEDES = "Arthropoda Insecta Diptera Culicidae Culex pipiens", "Arthropoda Insecta Diptera Culicidae Aedes -"
TAXIDS = (
    "Eukaryota_2759;Arthropoda_6656;Insecta_50557;Hymenoptera_7399;Apidae_7458;Apis_7459;Apis mellifera_7460",
    "Eukaryota_2759;Discosea_555280;Flabellinia_1485085;order_Vannellidae_95227;Vannellidae_95227;Clydonella_218657;"
    "Clydonella sawyeri_2201168",
)
PREFIXED = [
    "{0}".join(letter + "{1}" + name for letter, name in zip("kpcofgs", text.split(";"), strict=True))
    for text in TAXIDS
]
IDS = fasta("A1", "A2")
CULICIDAE = "\tAnimalia\tArthropoda\tInsecta\tDiptera\tCulicidae\t"
FUNGUS = (
    "k__Fungi;p__Ascomycota;c__Dothideomycetes;o__Abrothallales;f__Abrothallaceae;g__Abrothallus;s__Abrothallus_alba"
)
PLACE = "k__Alveolata;p__Ciliophora;c__Ciliophora_cls_Incertae_sedis;o__unidentified;f__Ciliophora_fam_Incertae_sedis;"

#: Name -> files, ids (None: whatever they are), and names of each record.
PUBLISHED = {
    "UNITE": (
        [fasta(f"A_b|MT1|SH12.10FU|refs|{FUNGUS}", f"C_sp|UDB2|SH0.10FU|refs|{PLACE}g__X_gen_Incertae_sedis;s__C_sp")],
        ["MT1", "UDB2"],
        ["Ascomycota Dothideomycetes Abrothallales Abrothallaceae Abrothallus alba", "Ciliophora - - - - -"],
    ),
    "UNITE before 2015": (
        [fasta(f"UDB1|{FUNGUS}|SH1281904.10FU")],
        ["UDB1"],
        ["Ascomycota Dothideomycetes Abrothallales Abrothallaceae Abrothallus alba"],
    ),
    "MIDORI2 SINTAX": (
        [fasta(*(f"KX{i}.1.<1.>9;tax={text.format(',', ':')};" for i, text in enumerate(PREFIXED)))],
        ["KX0.1.<1.>9", "KX1.1.<1.>9"],
        [BEE, AMOEBA],
    ),
    "MIDORI2 QIIME": (
        [IDS, "".join(f"A{i}\t{text.format(';', '__')}\n" for i, text in enumerate(PREFIXED, 1))],
        ["A1", "A2"],
        [BEE, AMOEBA],
    ),
    "MIDORI2 DADA2": ([fasta(*(f"{text};" for text in TAXIDS))], None, [BEE, AMOEBA]),
    "COInr RDP": (
        [
            fasta(
                "MG1_1 cellularOrganisms;Eukaryota_2759;Metazoa_33208;Arthropoda_6656;Insecta_50557;Hymenoptera_7399;"
                "Apidae_7458;Apis_7459;Apis_mellifera_-91",
                "MG2_1 cellularOrganisms;Eukaryota_2759;Metazoa_33208;Annelida_6340;Polychaeta_6341;"
                "Polychaeta_6341_order;Orbiniidae_1;Orbinia_5;Orbinia_johnsoni_-91",
            )
        ],
        ["MG1_1", "MG2_1"],
        [BEE, "Annelida Polychaeta - Orbiniidae Orbinia johnsoni"],
    ),
    "SILVA of bacteria": (
        [
            fasta(
                "HG1.1.1495 Bacteria;Proteobacteria;Gammaproteobacteria;Enterobacterales;Enterobacteriaceae;"
                "Escherichia;Escherichia coli",
                "HG2.1.1495 Bacteria;Cyanobacteria;Cyanobacteriia;Chloroplast;Zea mays",
                dna=[one.replace("T", "U") for one in DNA],
            )
        ],
        ["HG1.1.1495", "HG2.1.1495"],
        [
            "Proteobacteria Gammaproteobacteria Enterobacterales Enterobacteriaceae Escherichia coli",
            "Cyanobacteria Cyanobacteriia Chloroplast - Zea mays",
        ],
    ),
    "GTDB": (
        [fasta("RS_1~NZ d__Bacteria;p__A;c__B;o__C;f__Daceae;g__Ea;s__Ea coli [locus_tag=x] [location=1..2]")],
        ["RS_1~NZ"],
        ["A B C Daceae Ea coli"],
    ),
    "OBITools 1": (
        [
            fasta(
                "AF1 taxid=9; species_name=Apis mellifera; genus_name=Apis; family_name=Apidae; "
                "order_name=Hymenoptera; rank=species; count=1; Apis mellifera mitochondrial gene",
                "AF2 taxid=8; family_name=Apidae; rank=genus; genus_name=Apis; species_name=None; count=1; ",
                "AF3 scientific_name=Carnivora; taxid=5; rank=order; order_name=Carnivora; ",
            )
        ],
        ["AF1", "AF2", "AF3"],
        ["- - Hymenoptera Apidae Apis mellifera", "- - - Apidae Apis -", "- - Carnivora - - -"],
    ),
    "OBITools 4": (
        [
            fasta(
                "s1 " + json.dumps({"count": 1, "taxid": "taxon:9 [x]@species", "scientific_name": "Apis mellifera"}),
                "s2 " + json.dumps({"count": 1, "genus_name": "Apis", "family_name": "Apidae"}) + " a; note",
            )
        ],
        ["s1", "s2"],
        ["- - - - Apis mellifera", "- - - Apidae Apis -"],
    ),
    "Kraken": (
        [fasta("AB123456.1|kraken:taxid|7460 Apis mellifera voucher", "kraken:taxid|7|AB123457.1 Culex pipiens COI")],
        ["AB123456.1", "AB123457.1"],
        ["- - - - Apis mellifera", "- - - - Culex pipiens"],
    ),
    "MitoFish": (
        [fasta("gb|NC_002079|Carassius auratus (goldfish)", "gi|1|gb|AB006953|Carassius auratus langsdorfi mtDNA")],
        ["NC_002079", "AB006953"],
        ["- - - - Carassius auratus"] * 2,
    ),
    "mothur": (
        [
            IDS,
            'A1\t"Animalia"(100);"Arthropoda"(100);"Insecta"(99);"Diptera"(98);"Culicidae"(90);Culex(88);Culex_pipiens(8);\n'
            "A2\tAnimalia;Arthropoda;Insecta;Diptera;Culicidae;Aedes;Aedes_unclassified;\n",
        ],
        ["A1", "A2"],
        [MOSQUITO, AEDES],
    ),
    "taxonomy of DADA2": (
        [
            fasta("ASV1", "ASV2"),
            '"","Kingdom","Phylum","Class","Order","Family","Genus","Species"\n'
            '"ASV1","Animalia","Arthropoda","Insecta","Diptera","Culicidae","Culex","pipiens"\n'
            '"ASV2","Animalia","Arthropoda","Insecta","Diptera","Culicidae","Aedes",NA\n',
        ],
        ["ASV1", "ASV2"],
        [MOSQUITO, AEDES],
    ),
    "NCBI of datasets": (
        [fasta("NC_001566.1:1-1566 COX1 [organism=Apis mellifera] [GeneID=1]")],
        ["NC_001566.1:1-1566"],
        ["- - - - Apis mellifera"],
    ),
    "a column for each rank beside a FASTA": (
        [
            fasta("AB123456.1 Aedes sp. voucher 5", "AB123457.1 Aedes aegypti voucher 6"),
            "accession\tkingdom\tphylum\tclass\torder\tfamily\tgenus\tspecies\n"
            "AB123456\tAnimalia\tArthropoda\tInsecta\tDiptera\tCulicidae\tCulex\tCulex pipiens\n"
            "AB123457\tAnimalia\tArthropoda\tInsecta\tDiptera\tCulicidae\tAedes\t\n",
        ],
        ["AB123456.1", "AB123457.1"],
        [MOSQUITO, AEDES],
    ),
    "names of organisms beside a FASTA": (
        [IDS, "accession,organism\nA1,CULEX_PIPIENS\nA2,Aedes sp. 4\n"],
        ["A1", "A2"],
        ["- - - - Culex pipiens", "- - - - Aedes -"],
    ),
    "Darwin Core": (
        [
            "occurrenceID\tscientificName\tkingdom\tphylum\tclass\torder\tfamily\tgenus\ttaxonRank\tDNA_sequence\n"
            f"u1\tCulex pipiens Linnaeus, 1758{CULICIDAE}Culex\tspecies\t{DNA[0]}\n"
            f"u2\tAedes Meigen, 1818{CULICIDAE}Aedes\tgenus\t{DNA[1]}\n"
        ],
        ["u1", "u2"],
        [MOSQUITO, AEDES],
    ),
    "Darwin Core with epithets": (
        [
            f"catalogNumber,family,genus,specificEpithet,sequence\nc1,Culicidae,Culex,pipiens,{DNA[0]}\nc2,,,,{DNA[1]}\n"
        ],
        ["c1", "c2"],
        ["- - - Culicidae Culex pipiens", "- - - - - -"],
    ),
    "capitals, lower case and underscores": (
        [
            "id,family,genus,species,sequence\n"
            f"1,CULICIDAE,CULEX,PIPIENS,{DNA[0]}\n2,culicidae,culex,culex pipiens,{DNA[1]}\n"
            f"3,Culicidae,Culex,Culex_pipiens,{DNA[2]}\n"
        ],
        ["1", "2", "3"],
        ["- - - Culicidae Culex pipiens"] * 3,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_formats(name, tmp_path):
    texts, ids, expected = PUBLISHED[name]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    table = read_references([tmp_path / f"{number}.txt" for number in range(len(texts))]).table
    assert [[row[rank] for rank in RANKS] for row in table.to_pylist()] == [ranks(text) for text in expected]
    assert ids is None or table["processid"].to_pylist() == ids
    assert table["dna_barcode"].to_pylist() == DNA[: len(table)]


@pytest.mark.parametrize(
    "header",
    [
        "A.1_U|18S_rRNA|nucleus||Eukaryota|Obazoa|Opisthokonta|Metazoa|Arthropoda|Insecta|Insecta_X|Apis|Apis_mellifera",
        "Eukaryota;Obazoa;Opisthokonta;Metazoa;Arthropoda;Insecta;Insecta_X;Apis;Apis_mellifera;",
    ],
)
def test_the_nine_ranks_of_pr2_are_named_by_the_user(header, tmp_path):
    """Its class and order of animals are others' phylum and class, so they are not guessed."""
    (tmp_path / "pr2.fasta").write_text(fasta(header))
    with pytest.raises(ValueError, match=r"up to 9 names, such as 'Eukaryota;Obazoa.* by --ranks"):
        read_references([tmp_path / "pr2.fasta"])
    names = ("domain", "supergroup", "division", "", "phylum", "class", "order", "genus", "species")
    (row,) = read_references([tmp_path / "pr2.fasta"], ranks=names).table.to_pylist()
    assert [row[rank] for rank in RANKS] == ranks("Arthropoda Insecta - - Apis mellifera")


def test_ranks_are_taken_where_they_are_asked_for(tmp_path):
    """Lineages of RDP, SILVA and MIDORI2 were refused again with the ranks that the refusal asks for."""
    (tmp_path / "a.fasta").write_text(fasta("A1 Eukaryota;Obazoa;Metazoa;Arthropoda;Insecta;Apis;Apis mellifera;x"))
    with pytest.raises(ValueError, match="by --ranks"):
        read_references([tmp_path / "a.fasta"])
    names = ("", "", "", "phylum", "class", "genus", "species", "")
    (row,) = read_references([tmp_path / "a.fasta"], ranks=names).table.to_pylist()
    assert [row[rank] for rank in RANKS] == ranks("Arthropoda Insecta - - Apis mellifera")


def test_lineages_with_and_without_a_subfamily():
    """Without one, the genus was a subfamily, and the species a genus."""
    long = "Animalia;Arthropoda;Insecta;Diptera;Culicidae;Culicinae;Aedes;Aedes aegypti"
    short = "Animalia;Arthropoda;Insecta;Diptera;Culicidae;Culex;"
    found = by_position([long, f"{short}Culex pipiens", f"{short}Culex sp."])
    assert found[0]["subfamily"] == "Culicinae" and found[0]["species"] == "Aedes aegypti"
    assert [list(one.items())[3:] for one in found[1:]] == [
        [("family", "Culicidae"), ("genus", "Culex"), ("species", "Culex pipiens")],
        [("family", "Culicidae"), ("genus", "Culex")],
    ]


def test_a_family_in_another_place_moves_no_rank():
    """A lineage with one name more or less than the others keeps its family and species alone."""
    usual = ["Animalia;Arthropoda;Insecta;Diptera;Culicidae;Culex;Culex pipiens"] * 3
    more = "Animalia;Arthropoda;Hexapoda;Insecta;Diptera;Culicidae;Culex pipiens"
    assert by_position([*usual, more])[3] == {"family": "Culicidae", "genus": "Culex", "species": "Culex pipiens"}
    repeated = "Animalia;Arthropoda;Insecta;Diptera;Culicidae;Culicidae;Culicidae sp."
    assert by_position([*usual, repeated])[3] == {
        **{"phylum": "Arthropoda", "class": "Insecta"},
        **{"order": "Diptera", "family": "Culicidae"},
    }


def test_names_of_phyla_below_a_phylum():
    """Acanthocephala is also a genus of bugs, and Sipuncula a class of worms: their other ranks were lost."""
    bugs = ["Animalia;Arthropoda;Insecta;Hemiptera;Coreidae;Acanthocephala;Acanthocephala terminalis"]
    flies = ["Animalia;Arthropoda;Insecta;Diptera;Culicidae;Culex;Culex pipiens"]
    for found in (by_position(bugs)[0], by_position(bugs + 3 * flies)[0]):
        assert [found[rank] for rank in RANKS] == ranks(
            "Arthropoda Insecta Hemiptera Coreidae Acanthocephala terminalis"
        )
    worms = ["Animalia;Annelida;Sipuncula;Golfingiida;Golfingiidae;Golfingia;Golfingia elongata"]
    assert by_position(worms + 3 * flies)[0]["class"] == "Sipuncula"
    assert by_position(worms)[0]["order"] == "Golfingiida"


@pytest.mark.parametrize(
    "name",
    ["Apis sp.", "Apis sp", "Apis spp.", "Apidae gen. sp.", "Apis sp. nov.", "Apis indet.", "Apis spec.", "Apis NA"]
    + ["uncultured Apis", "unidentified Apis", "environmental samples", "cf. Apis", "Apidae incertae sedis", "NA NA"]
    + ["unclassified Apidae", "synthetic construct", "Ciliophora_ord_Incertae_sedis", "Picozoa_X_sp.", "Apis unknown"]
    + ["Apis unidentified"],
)
def test_names_of_nothing_are_no_taxa(name):
    """All "Apis sp." of a library are not one species."""
    assert one_form(name) is None and species_form(name) is None


@pytest.mark.parametrize(
    "name",
    ["Nun", "Rootia", "Spec", "Unknownia", "Apis unknownensis", "Apis synthetica", "Apis environmentalis", "Apis type"]
    + ["Polygonia c-album", "Apis jørgenseni", "Apis d'orbignyi", "Yi qi", "Apis sp. 1BIO", "Tanytarsus X"],
)
def test_odd_names_stay(name):
    assert species_form(name) == name and (" " in name or one_form(name) == name)
    assert one_form("Hypotrichia_XX") is None and one_form("Aedes (Stegomyia)") == "Aedes"


@pytest.mark.parametrize(
    ("name", "species"),
    [
        ("Apis mellifera ligustica", "Apis mellifera"),
        ("Apis mellifera subsp. ligustica", "Apis mellifera"),
        ("Apis mellifera ligustica Spinola, 1806", "Apis mellifera"),
        ("Apis mellifera (honey bee)", "Apis mellifera"),
        ("[Apis] mellifera", "Apis mellifera"),
        *(
            (name, name)
            for name in (
                "Apis mellifera group",
                "Apis sp. BOLD:AAA1234",
                "Apis cf. mellifera",
                "Apis sp. X1",
                "Tobacco mosaic virus",
                "Rice stripe tenuivirus",
                "Apis near mellifera",
                "Bemisia tabaci biotype B",
                "Astraptes fulgerator CELT",
            )
        ),
        *((name, name) for name in ("Apis mellifera × Apis cerana", "Bos taurus x Bison bison", "Bufo × hybridus")),
    ],
)
def test_species_have_one_form(name, species):
    """Subspecies count as their species; interim names, groups and hybrids stay apart."""
    assert species_form(name) == species


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bos taurus x Bison bison COI", {}),
        ("Apis mellifera x Apis cerana", {"genus": "Apis"}),
        ("Incertae sedis voucher", {}),
        ("Apis indet. voucher", {"genus": "Apis"}),
        ("Apis complex sp. A", {"genus": "Apis"}),
        ("Apis (Apis) mellifera voucher", {"genus": "Apis", "species": "Apis mellifera"}),
        ("[Apis] mellifera strain", {"genus": "Apis", "species": "Apis mellifera"}),
        ("Apis_mellifera", {"genus": "Apis", "species": "Apis mellifera"}),
        ("Apis brünneri voucher", {"genus": "Apis", "species": "Apis brünneri"}),
        ("Isoëtes lacustris", {"genus": "Isoëtes", "species": "Isoëtes lacustris"}),
        ("Aedes (St.) aegypti isolate", {"genus": "Aedes", "species": "Aedes aegypti"}),
        ("Apis near mellifera", {"genus": "Apis"}),
        ("Apis morpho1 voucher", {"genus": "Apis"}),
        ("MacGillivraya pelagica", {}),
        ("Wolbachia endosymbiont of Apis mellifera", {"genus": "Wolbachia"}),
        ("Apis mellifera filamentous virus isolate 1", {}),
        ("Acanthocephala terminalis voucher", {"genus": "Acanthocephala", "species": "Acanthocephala terminalis"}),
        ("Acanthocephala sp. 5", {}),
        ("Tanytarsini sp. BOLD:AAA1234", {}),
    ],
)
def test_sentences_with_hybrids_and_subgenera(text, expected):
    assert from_name(text) == expected


def test_options_that_do_not_fit_are_told(tmp_path):
    """A misspelt rank lost its names in silence, and a wrong format asked for ranks of nothing."""
    (tmp_path / "a.fasta").write_text(fasta("Insecta;Diptera;Culicidae;Culex;"))
    with pytest.raises(ValueError, match=r"The rank 'fam' is unknown. Kept are phylum, .*; leave a place empty"):
        read_references([tmp_path / "a.fasta"], ranks=["class", "order", "fam", "genus"])
    (row,) = read_references([tmp_path / "a.fasta"], ranks=["Class", "", " family", "genus"]).table.to_pylist()
    assert [row[rank] for rank in RANKS] == ranks("- Insecta - Culicidae Culex -")
    with pytest.raises(ValueError, match="no header is one of rdp, such as 'Insecta;Diptera"):
        read_references([tmp_path / "a.fasta"], format="rdp")


def test_several_files_have_their_own_names(tmp_path):
    """A taxonomy is of the FASTA whose ids it has; ids end at ";". Most lines of a taxonomy may name nothing."""
    (tmp_path / "a.fasta").write_text(fasta("Z1;size=3;", "Z2"))
    (tmp_path / "b.fasta").write_text(fasta("AB123456.1 Apis cerana voucher"))
    (tmp_path / "a.tsv").write_text(
        "Feature ID\tTaxon\tConfidence\nZ1\tk__A; f__Apidae; g__Apis\t0.9\nZ2\tUnassigned\t1\n"
    )
    found = read_references([tmp_path / name for name in ("a.fasta", "b.fasta", "a.tsv")])
    assert [row["genus"] for row in found.table.to_pylist()] == ["Apis", None, "Apis"]
    assert found.table["species"].to_pylist() == [None, None, "Apis cerana"]


def test_epithets_belong_to_their_genera(tmp_path):
    """The "sp. 1" of two genera were one species, and epithets with accents or digits had no genus."""
    species = ["sp. 1", "jørgenseni", "7-punctata", "cf. mellifera", "MELLIFERA", "mellifera ligustica"]
    species += ["apis mellifera", "sp.", "unknown bee"]
    rows = "".join(f"{i},Apis,{name},{DNA[0]}\n" for i, name in enumerate(species))
    (tmp_path / "a.csv").write_text("id,genus,species,sequence\n" + rows, encoding="utf-8")
    assert read_references([tmp_path / "a.csv"]).table["species"].to_pylist() == [
        *(
            "Apis sp. 1",
            "Apis jørgenseni",
            "Apis 7-punctata",
            "Apis cf. mellifera",
            *["Apis mellifera"] * 3,
            None,
            None,
        )
    ]


def test_what_was_left_out_or_joined_is_told(tmp_path):
    species = ["Apis sp.", "Apis mellifera ligustica", "Apis cerana"]
    rows = "".join(f"{i},{name},{one}\n" for i, (name, one) in enumerate(zip(species, DNA, strict=True)))
    (tmp_path / "a.csv").write_text("id,species,sequence\n" + rows)
    assert read_references([tmp_path / "a.csv"]).notes == [
        "1 record has no species: 'Apis sp.' or the like is not a name",
        "1 record of subspecies counts as its species, such as 'Apis mellifera ligustica'",
    ]
    assert read_references([tmp_path / "a.csv"]).table["genus"].to_pylist() == ["Apis"] * 3  # of the species
    (tmp_path / "b.fasta").write_text(fasta("A;tax=g:Apis,s:Apis_cerana", "B;tax=g:Apis", "AB123456.1 Apis mellifera"))
    found = read_references([tmp_path / "b.fasta"])
    assert found.notes == ["1 record without a name in the form of sintax, such as 'AB123456.1 Apis mellifera'"]


def test_a_taxonomy_of_none_of_the_files_is_told(tmp_path):
    (tmp_path / "a.fasta").write_text(fasta("A;tax=g:Apis,s:Apis_cerana"))
    (tmp_path / "t.tsv").write_text("id\ttaxonomy\nA\tk__Animalia;g__Apis\n")
    with pytest.raises(ValueError, match="A table of taxonomy is of a FASTA with ids, and the other files have names"):
        read_references([tmp_path / "a.fasta", tmp_path / "t.tsv"])
